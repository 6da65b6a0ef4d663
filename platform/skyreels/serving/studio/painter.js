// A brush over frames of a video: white is made anew. What is painted on one holds till the next that is painted on. The
// mask has the video's own size.

export class Painter {
  constructor() {
    this.canvas = document.getElementById("mask");
    this.context = this.canvas.getContext("2d");
    this.layers = new Map(); // by seconds, the first one also before its time
    this.seconds = 0;
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.preload = "auto";
    this.at = { x: 0, y: 0 };
    document.getElementById("source").addEventListener("change", (event) => this.open(event.target.files[0]));
    document.getElementById("clear").addEventListener("click", () => this.clear());
    document.getElementById("moment").addEventListener("input", (event) => {
      this.seconds = event.target.value * this.video.duration;
      this.video.currentTime = Math.max(1e-3, this.seconds);
    });
    this.video.addEventListener("loadedmetadata", () => this.resize());
    for (const event of ["loadeddata", "seeked"]) this.video.addEventListener(event, () => this.show());
    this.follow();
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.move(event, true);
    });
    this.canvas.addEventListener("pointermove", (event) => this.move(event, event.buttons > 0));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show each frame once it can be drawn, which may be after the events that announce it. */
  follow() {
    this.video.requestVideoFrameCallback?.(() => {
      this.show();
      this.follow();
    });
  }

  open(file) {
    document.getElementById("painter").hidden = !file;
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    if (file) this.video.src = URL.createObjectURL(file);
    this.canvas.width = 0; // nothing of the one before is painted on while this one's size is not known
    this.clear();
  }

  resize() {
    this.canvas.width = this.video.videoWidth;
    this.canvas.height = this.video.videoHeight;
    this.seconds = document.getElementById("moment").value = 0;
    this.at = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    this.clear();
    this.video.currentTime = 1e-3; // a browser decodes no frame of a hidden video before it is asked for one
  }

  clear() {
    this.layers.clear();
    this.show();
  }

  /** In their order in time. */
  get painted() {
    return [...this.layers].sort(([one], [other]) => one - other);
  }

  /** What holds now, null where nothing was painted. */
  held() {
    const { painted } = this;
    return (painted.findLast(([time]) => time <= this.seconds) ?? painted[0])?.[1] ?? null;
  }

  /** What is painted on now: a layer of this frame, which begins as what holds. */
  layer() {
    if (!this.layers.has(this.seconds)) {
      const made = document.createElement("canvas");
      made.width = this.canvas.width;
      made.height = this.canvas.height;
      const before = this.held();
      if (before) made.getContext("2d").drawImage(before, 0, 0);
      this.layers.set(this.seconds, made);
    }
    return this.layers.get(this.seconds);
  }

  get radius() {
    return (document.getElementById("brush").value / 200) * Math.min(this.canvas.width, this.canvas.height);
  }

  move(event, painting) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    const next = { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
    if (painting) this.stroke(event.type === "pointerdown" ? next : this.at, next);
    this.at = next;
    this.show();
  }

  key(event) {
    const step = Math.max(1, this.radius / 2);
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const brush = document.getElementById("brush");
    if (ways[event.key]) {
      const [x, y] = ways[event.key];
      this.at = {
        x: Math.min(Math.max(this.at.x + x, 0), this.canvas.width),
        y: Math.min(Math.max(this.at.y + y, 0), this.canvas.height),
      };
    } else if (event.key === " ") this.stroke(this.at, this.at);
    else if (event.key === "x") document.getElementById("rub").click();
    else if (event.key === "[") brush.stepDown(5);
    else if (event.key === "]") brush.stepUp(5);
    else return;
    event.preventDefault();
    this.show();
  }

  stroke(from, to) {
    if (!this.canvas.width) return;
    const context = this.layer().getContext("2d");
    const rubbing = document.getElementById("rub").checked;
    context.globalCompositeOperation = rubbing ? "destination-out" : "source-over";
    context.strokeStyle = "#fff";
    context.lineCap = "round";
    context.lineWidth = 2 * this.radius;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
  }

  show() {
    const { context, canvas } = this;
    const times = this.painted.map(([time]) => time.toFixed(2)).join(", ");
    document.getElementById("painted").textContent = times && `painted at ${times} s`;
    if (!canvas.width) return;
    context.globalAlpha = 1;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.video, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.6;
    const held = this.held();
    if (held) context.drawImage(held, 0, 0);
    context.globalAlpha = 1;
    context.strokeStyle = "#f0a274";
    context.lineWidth = Math.max(1, canvas.width / 300);
    context.beginPath();
    context.arc(this.at.x, this.at.y, this.radius, 0, 2 * Math.PI);
    context.stroke();
  }

  /** White on black as PNG, or what is painted at several times, as the service documents it. */
  async mask() {
    const { painted } = this;
    const at = painted.map(([time, layer]) => ({ time, size: [layer.height, layer.width], counts: runs(layer) }));
    if (at.every(({ counts }) => counts.length === 1)) throw new Error("paint over the part that is to be made anew");
    if (at.length > 1) return JSON.stringify({ type: "painted", at });
    const flat = document.createElement("canvas");
    flat.width = this.canvas.width;
    flat.height = this.canvas.height;
    const context = flat.getContext("2d");
    context.fillRect(0, 0, flat.width, flat.height);
    context.drawImage(painted[0][1], 0, 0);
    return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
  }
}

/** Lengths of runs down the columns, of what is not painted first. */
function runs(layer) {
  const { width, height } = layer;
  const { data } = layer.getContext("2d").getImageData(0, 0, width, height);
  const counts = [0];
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      const white = data[4 * (y * width + x) + 3] > 127;
      if (white !== (counts.length % 2 === 0)) counts.push(0);
      counts[counts.length - 1] += 1;
    }
  }
  return counts;
}
