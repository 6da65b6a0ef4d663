// A brush over one frame of a video: white is made anew. The mask has the video's own size.

export class Painter {
  constructor() {
    this.canvas = document.getElementById("mask");
    this.context = this.canvas.getContext("2d");
    this.drawn = document.createElement("canvas");
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.preload = "auto";
    this.at = { x: 0, y: 0 };
    this.painted = false;
    document.getElementById("source").addEventListener("change", (event) => this.open(event.target.files[0]));
    document.getElementById("clear").addEventListener("click", () => this.clear());
    document.getElementById("moment").addEventListener("input", (event) => {
      this.video.currentTime = event.target.value * this.video.duration;
    });
    this.video.addEventListener("loadedmetadata", () => this.resize());
    for (const event of ["loadeddata", "seeked"]) this.video.addEventListener(event, () => this.show());
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.move(event, true);
    });
    this.canvas.addEventListener("pointermove", (event) => this.move(event, event.buttons > 0));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  open(file) {
    document.getElementById("painter").hidden = !file;
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    if (file) this.video.src = URL.createObjectURL(file);
  }

  resize() {
    for (const canvas of [this.canvas, this.drawn]) {
      canvas.width = this.video.videoWidth;
      canvas.height = this.video.videoHeight;
    }
    this.at = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    this.clear();
    this.video.currentTime = 1e-3; // a browser decodes no frame of a hidden video before it is asked for one
  }

  clear() {
    const context = this.drawn.getContext("2d");
    context.clearRect(0, 0, this.drawn.width, this.drawn.height);
    this.painted = false;
    this.show();
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
    const context = this.drawn.getContext("2d");
    const rubbing = document.getElementById("rub").checked;
    context.globalCompositeOperation = rubbing ? "destination-out" : "source-over";
    context.strokeStyle = "#fff";
    context.lineCap = "round";
    context.lineWidth = 2 * this.radius;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    this.painted ||= !rubbing;
  }

  show() {
    const { context, canvas } = this;
    if (!canvas.width) return;
    context.globalAlpha = 1;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.video, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.6;
    context.drawImage(this.drawn, 0, 0);
    context.globalAlpha = 1;
    context.strokeStyle = "#f0a274";
    context.lineWidth = Math.max(1, canvas.width / 300);
    context.beginPath();
    context.arc(this.at.x, this.at.y, this.radius, 0, 2 * Math.PI);
    context.stroke();
  }

  /** White on black, as PNG. */
  async mask() {
    if (!this.painted) throw new Error("paint over the part that is to be made anew");
    const flat = document.createElement("canvas");
    flat.width = this.drawn.width;
    flat.height = this.drawn.height;
    const context = flat.getContext("2d");
    context.fillRect(0, 0, flat.width, flat.height);
    context.drawImage(this.drawn, 0, 0);
    return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
  }
}
