"""A headless Chromium over its DevTools protocol: pages opened, looked at, clicked and typed into as people do."""

import asyncio
import base64
import json
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp


class Page:
    """One tab. `faults` are what its console and its security policy complained of."""

    def __init__(self, socket, loop):
        self.faults = []
        self._socket, self._loop, self._number, self._waiting = socket, loop, 0, {}
        asyncio.run_coroutine_threadsafe(self._listen(), loop)
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """A command's answer."""
        self._number += 1
        number = self._number

        async def sent():
            self._waiting[number] = self._loop.create_future()
            await self._socket.send_json({"id": number, "method": method, "params": parameters})
            return await asyncio.wait_for(self._waiting[number], 60)

        return asyncio.run_coroutine_threadsafe(sent(), self._loop).result()

    def run(self, script):
        """The value of an expression in the page, awaited."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script, seconds=60):
        """Wait for what holds; the page's words where it does not."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, (script, self.run("document.body.innerText")[-1500:], self.faults)
            time.sleep(0.1)

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def click(self, selector):
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def fill(self, selector, text):
        """Type into a field that is focused."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.ask("Input.insertText", text=text)

    def press(self, key, code=None):
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **text)

    def choose(self, selector, path):
        """Give a file to a file field."""
        found = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.ask("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def drag(self, selector, way):
        """Draw with the mouse; `way` are (x, y) as shares of the element."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        box = json.loads(box)
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in way]
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1)]
        for (x, y), kind in zip(points, kinds, strict=True):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        x, y = points[-1]
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path):
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        Path(path).write_bytes(base64.b64decode(picture["data"]))

    async def _listen(self):
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                future = self._waiting.pop(told["id"])
                if "error" in told:
                    future.set_exception(RuntimeError(told["error"]))
                else:
                    future.set_result(told["result"])
            elif told["method"] == "Runtime.exceptionThrown":
                self.faults.append(told["params"])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] in ("warning", "error"):
                self.faults.append(told["params"]["entry"])


@contextmanager
def browser(program, folder):
    """A tab of a browser of its own."""
    words = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--mute-audio"]
    words += ["--autoplay-policy=no-user-gesture-required", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
    process = subprocess.Popen([*words, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def connected():
        session = aiohttp.ClientSession()
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            (tab,) = [tab for tab in await answer.json() if tab["type"] == "page"]
        return session, await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    try:
        port = _port(process, Path(folder) / "DevToolsActivePort")
        session, socket = asyncio.run_coroutine_threadsafe(connected(), loop).result(30)
        yield Page(socket, loop)
        asyncio.run_coroutine_threadsafe(session.close(), loop).result(30)
    finally:
        process.terminate()
        process.wait(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _port(process, path):
    deadline = time.monotonic() + 60
    while not (path.exists() and len(path.read_text().split()) == 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return path.read_text().split()[0]
