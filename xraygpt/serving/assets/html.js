// Shows HTML that the server made (every text in it is escaped there), and reports clicks on what can be chosen.
const region = element.querySelector(".xg-region");
const stuck = () => region.scrollHeight - region.scrollTop - region.clientHeight < 80;

function show() {
  const atEnd = stuck();
  region.innerHTML = props.value || "";
  if (atEnd) region.scrollTop = region.scrollHeight; // who has scrolled up to read stays there
}
function choose(target) {
  const sentence = target.closest(".xg-sentence"), fix = target.closest(".xg-fix");
  if (sentence) {
    const pressed = sentence.getAttribute("aria-pressed") === "true";
    region.querySelectorAll(".xg-sentence").forEach((each) => each.setAttribute("aria-pressed", "false"));
    sentence.setAttribute("aria-pressed", String(!pressed));
    trigger("choose", { turn: Number(sentence.dataset.turn), sentence: Number(sentence.dataset.sentence) });
  }
  if (fix) trigger("fix", { invert: Boolean(fix.dataset.invert), rotate: Number(fix.dataset.rotate || 0) });
}
element.addEventListener("click", (event) => choose(event.target));
element.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && event.target.matches(".xg-sentence")) {
    event.preventDefault();
    choose(event.target);
  }
});
watch("value", show);
show();
