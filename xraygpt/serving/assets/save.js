// Saves files that the server made in memory.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-kind]");
  if (button) trigger("save", { kind: button.dataset.kind });
});
watch("value", () => {
  if (!props.value) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([props.value.text], { type: `${props.value.type};charset=utf-8` }));
  link.download = props.value.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});
