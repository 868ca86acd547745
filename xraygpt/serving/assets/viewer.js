// The film, its heat map, and how they are looked at. Everything here happens in the browser; the server is not asked.
const find = (selector) => element.querySelector(selector);
const stage = find(".xg-stage"), layers = find(".xg-layers"), film = find(".xg-film"), heat = find(".xg-heat");
const view = { zoom: 1, x: 0, y: 0, inverted: false, heatShown: true };
const pointers = new Map();

function fit() {
  // The layers take the film's shape, as large as the stage allows, so that film and heat map lie on each other.
  if (!film.naturalWidth) return;
  const scale = Math.min(stage.clientWidth / film.naturalWidth, stage.clientHeight / film.naturalHeight);
  layers.style.width = `${film.naturalWidth * scale}px`;
  layers.style.height = `${film.naturalHeight * scale}px`;
}
film.addEventListener("load", fit);
new ResizeObserver(fit).observe(stage);

function setting(name) { return Number(find(`[data-set=${name}]`).value); }

function draw() {
  // The film stays reachable: it is moved by half its overhang at most.
  const reachX = (stage.clientWidth * (view.zoom - 1)) / 2, reachY = (stage.clientHeight * (view.zoom - 1)) / 2;
  view.x = Math.min(reachX, Math.max(-reachX, view.x));
  view.y = Math.min(reachY, Math.max(-reachY, view.y));
  layers.style.transform = `translate(-50%, -50%) translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
  film.style.filter = `brightness(${setting("brightness")}%) contrast(${setting("contrast")}%) invert(${view.inverted ? 1 : 0})`;
  heat.style.opacity = setting("opacity") / 100;
  const hasHeat = Boolean(heat.getAttribute("src"));
  heat.hidden = !(hasHeat && view.heatShown);
  find(".xg-legend").hidden = find(".xg-heat-only").hidden = heat.hidden;
  find("[data-do=heat]").disabled = !hasHeat;
  find("[data-do=heat]").setAttribute("aria-pressed", String(!heat.hidden));
  find("[data-do=invert]").setAttribute("aria-pressed", String(view.inverted));
}

function zoomBy(factor, x = 0, y = 0) {
  // (x, y) from the middle of the stage stays where it is
  const zoom = Math.min(12, Math.max(1, view.zoom * factor));
  view.x = x - ((x - view.x) * zoom) / view.zoom;
  view.y = y - ((y - view.y) * zoom) / view.zoom;
  view.zoom = zoom;
  draw();
}

function reset() {
  Object.assign(view, { zoom: 1, x: 0, y: 0, inverted: false });
  for (const name of ["brightness", "contrast"]) find(`[data-set=${name}]`).value = 100;
  draw();
}

const actions = {
  open: () => picker.click(),
  in: () => zoomBy(1.4),
  out: () => zoomBy(1 / 1.4),
  fit: reset,
  invert: () => { view.inverted = !view.inverted; draw(); },
  heat: () => { view.heatShown = !view.heatShown; draw(); },
};
const move = (x, y) => { view.x += x; view.y += y; draw(); };
const keys = {
  "+": actions.in, "=": actions.in, "-": actions.out, "0": reset, o: actions.open, i: actions.invert, h: actions.heat,
  ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do]();
  if (event.target.closest(".xg-empty")) picker.click();
});
element.addEventListener("input", draw);
find(".xg-viewer").addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

stage.addEventListener("wheel", (event) => {
  if (layers.hidden || !(event.ctrlKey || view.zoom > 1 || document.activeElement === find(".xg-viewer"))) return; // else the page scrolls
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoomBy(Math.exp(-event.deltaY / 400), event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (event.target.tagName === "IMG") stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = { x: event.clientX, y: event.clientY };
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const distance = (p) => Math.hypot(p.x - other.x, p.y - other.y) || 1;
    zoomBy(distance(now) / distance(before));
  } else {
    move(now.x - before.x, now.y - before.y);
  }
  pointers.set(event.pointerId, now);
});
for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => pointers.delete(event.pointerId));

// A file is sent as it is; the server answers with a number, by which the page's event then claims the image.
const picker = find("#xg-upload input"), refused = find(".xg-refused"), MAX_MEBIBYTES = 64;
let numSent = 0, sending = null;

function refuse(message) {
  refused.textContent = message;
  refused.hidden = !message;
  if (message) refused.scrollIntoView({ block: "nearest" });
}

async function send(file) {
  if (!file) return;
  refuse("");
  if (file.size > MAX_MEBIBYTES * 2 ** 20) return refuse(`The file has more than ${MAX_MEBIBYTES} MiB, which no radiograph needs.`);
  const number = ++numSent;
  sending?.abort();
  sending = new AbortController();
  stage.setAttribute("aria-busy", "true");
  let answer;
  try {
    const headers = { "X-File-Name": encodeURIComponent(file.name) };
    answer = await (await fetch("/upload", { method: "POST", body: file, headers, signal: sending.signal })).json();
  } catch {
    answer = { error: "The file could not be sent. Is the server still running?" };
  }
  if (number !== numSent) return; // another file was chosen meanwhile
  stage.removeAttribute("aria-busy");
  if (answer.upload) trigger("upload", { upload: answer.upload }); else refuse(answer.error.message || answer.error);
}

// Who logs out in one tab has logged out in all: none goes on showing an image.
const session = new BroadcastChannel("xraygpt-session");
session.addEventListener("message", () => {
  document.body.replaceChildren();
  setTimeout(() => location.replace("/"), 1000); // when the server knows, too
});
document.addEventListener("submit", (event) => { if (event.target.matches(".xg-header form")) session.postMessage("logout"); });

picker.addEventListener("change", () => { send(picker.files[0]); picker.value = ""; });
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("xg-over"); });
stage.addEventListener("dragleave", () => stage.classList.remove("xg-over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("xg-over");
  send(event.dataTransfer.files[0]);
});

function showFilm() {
  const uri = props.value || "";
  layers.hidden = !uri;
  find(".xg-empty").hidden = Boolean(uri);
  if (uri) film.src = uri; else film.removeAttribute("src");
  reset();
}

// Where the model looked: of the sentence that the pointer rests on, else of the chosen one. The server sends the maps of a whole answer at
// once; they are kept. One question at a time is on its way: when its answer comes, the sentence of that moment is asked for, if need be.
const maps = new Map();
let wanted = { chosen: null, rested: null }, numAsked = 0, isAsking = false, askedFor = "", isBusy = false;

function sentence() { return wanted.rested || wanted.chosen; }
function ask(byUser) {
  const now = sentence();
  if (!now || maps.has(now.key) || (isAsking && !byUser)) return;
  isAsking = true;
  isBusy = false;
  askedFor = now.key;
  // A choice waits for the model; a glance does not, so that a pointer that wanders over the text keeps nobody waiting.
  trigger(now.key === wanted.chosen?.key ? "look" : "glance", { turn: now.turn, asked: ++numAsked });
}
function showHeat() {
  const now = sentence(), uri = now && maps.get(now.key);
  if (uri) { if (heat.getAttribute("src") !== uri) heat.src = uri; } else heat.removeAttribute("src");
  const looking = isBusy ? "The model is busy. Click the sentence, and its map comes when the model is free." : "Looking at the image again …";
  find(".xg-caption").textContent = !now ? "" : uri ? `Where the model looked for “${now.text}”` : looking;
  draw();
}
document.addEventListener("xg-look", (event) => {
  wanted = event.detail;
  if (wanted.byUser) {
    view.heatShown = true;
    if (wanted.chosen) find(".xg-viewer").scrollIntoView({ block: "nearest" }); // on a phone it may be out of sight
  }
  ask(wanted.byUser);
  showHeat();
});
watch("heat", () => {
  const answer = props.heat || {};
  for (const [key, uri] of Object.entries(answer.maps || {})) maps.set(key, uri);
  if (answer.asked === numAsked) {
    isAsking = false;
    isBusy = Boolean(answer.is_busy);
    if (!isBusy && sentence()?.key !== askedFor) ask(false);
  }
  showHeat();
});
watch("value", () => { maps.clear(); showFilm(); });
showFilm();
showHeat();
find(".xg-viewer").dataset.ready = "yes"; // keys and pointers do something from here on
