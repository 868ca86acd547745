// Buttons whose labels are data: what is chosen is reported by its number.
const list = element.querySelector(".xg-chips");
function show() {
  list.replaceChildren(...(props.value || []).map((item, number) => {
    const button = document.createElement("button");
    button.type = "button";
    if (item.image) {
      const image = document.createElement("img");
      image.src = item.image;
      image.alt = item.text;
      button.append(image);
    } else {
      button.append(item.text);
    }
    button.addEventListener("click", () => trigger("choose", { number }));
    return button;
  }));
}
watch("value", show);
show();
