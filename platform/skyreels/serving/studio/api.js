// Calls to the service. The key stays in this tab and goes into a header, so media are fetched and not linked to.

const key = document.getElementById("key");
key.value = sessionStorage.getItem("key") ?? "";
key.addEventListener("change", () => sessionStorage.setItem("key", key.value));

function headers() {
  return key.value ? { Authorization: `Bearer ${key.value}` } : {};
}

/** The answer; an Error that says what the service says. */
export async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const error = told.error ?? { message: `the service answered ${answer.status}` };
  throw new Error(error.param ? `${error.param}: ${error.message}` : error.message);
}

export async function json(path, options) {
  return (await call(path, options)).json();
}

export function send(path, value) {
  return json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
}

/** A clip or a picture of it as an address of this page; give it back with URL.revokeObjectURL. */
export async function media(id, variant = "video") {
  return URL.createObjectURL(await (await call(`v1/videos/${id}/content?variant=${variant}`)).blob());
}

/** Every event of a job, to its end. EventSource could send no key. */
export async function* events(id, signal) {
  const answer = await call(`v1/videos/${id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

const message = document.getElementById("message");

export function say(text) {
  message.textContent = text;
}

/** Runs an action of the user's; what goes wrong is said. */
export async function attempt(action) {
  try {
    say("");
    await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  }
}

/** An element with attributes and children; text is never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute.startsWith("on")) made.addEventListener(attribute.slice(2), value);
    else made.setAttribute(attribute, value);
  }
  made.append(...children);
  return made;
}
