// Shows HTML that the server made (every text in it is escaped there), and reports what is done with what can be chosen.
// Which sentence is looked at goes to the viewer as the event "xg-look": the chosen one, and the one that the pointer rests on.
const REST = 250; // milliseconds that the pointer rests on a sentence before it is looked at
const region = element.querySelector(".xg-region");
let pointed = null, timer = null;

function show() {
  // Only what changed is replaced, so that focus, selected text and a screen reader's place stay.
  const atEnd = region.scrollHeight - region.scrollTop - region.clientHeight < 80;
  const fresh = document.createElement("template");
  fresh.innerHTML = props.value || "";
  const before = [...region.children], after = [...fresh.content.children];
  after.forEach((child, i) => {
    if (!before[i]) region.append(child);
    else if (!before[i].isEqualNode(child)) before[i].replaceWith(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
  if (atEnd) region.scrollTop = region.scrollHeight; // who has scrolled up to read stays there
  if (region.matches(".xg-talk")) announce();
  region.querySelector("[role=alert]")?.scrollIntoView({ block: "nearest" }); // on a phone, what is refused is far from the button
}

function seen(sentence) {
  if (!sentence) return null;
  const { key, turn, sentence: number } = sentence.dataset;
  return { key, turn: Number(turn), sentence: Number(number), text: sentence.firstChild.textContent };
}
function announce(byUser = false) {
  const chosen = region.querySelector(".xg-sentence[aria-pressed=true]");
  const rested = pointed && !timer ? region.querySelector(`[data-key="${pointed}"]`) : null;
  document.dispatchEvent(new CustomEvent("xg-look", { detail: { chosen: seen(chosen), rested: seen(rested), byUser } }));
}

function choose(sentence) {
  const chosen = sentence.getAttribute("aria-pressed") !== "true";
  region.querySelectorAll(".xg-sentence").forEach((each) => each.setAttribute("aria-pressed", "false"));
  sentence.setAttribute("aria-pressed", String(chosen));
  trigger("choose", { turn: Number(sentence.dataset.turn), sentence: Number(sentence.dataset.sentence), chosen });
  if (!chosen) point(null); // the film alone, though the pointer is still there
  announce(true);
}

function point(key) {
  clearTimeout(timer);
  pointed = key;
  timer = key && setTimeout(() => { timer = null; announce(); }, REST);
}
region.addEventListener("pointerover", (event) => {
  const key = event.pointerType === "touch" ? null : event.target.closest(".xg-sentence")?.dataset.key || null;
  if (key === pointed) return;
  const wasRested = pointed && !timer;
  point(key);
  if (wasRested) announce();
});
region.addEventListener("pointerleave", () => {
  if (!pointed) return;
  point(null);
  announce();
});

element.addEventListener("click", (event) => {
  const sentence = event.target.closest(".xg-sentence"), fix = event.target.closest(".xg-fix");
  if (sentence) choose(sentence);
  if (fix) trigger("fix", { invert: Boolean(fix.dataset.invert), rotate: Number(fix.dataset.rotate || 0) });
});
element.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && event.target.matches(".xg-sentence")) {
    event.preventDefault();
    choose(event.target);
  }
});
watch("value", show);
show();
