// A button with a menu of commands below it.

/** Opens the menu `sheet` when `button` is clicked. Calls choose(item) with the menu item that was picked. */
export function attachMenu(button, sheet, choose) {
  const items = [...sheet.querySelectorAll("[role=menuitem]")];

  function toggle(open) {
    sheet.hidden = !open;
    button.setAttribute("aria-expanded", open);
    if (open) items[0].focus();
  }

  button.addEventListener("click", () => toggle(sheet.hidden));
  addEventListener("pointerdown", (event) => {
    if (!sheet.hidden && !event.target.closest(".menu")) toggle(false);
  });
  sheet.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      toggle(false);
      button.focus();
    } else if (step) {
      items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  for (const item of items) {
    item.addEventListener("click", () => {
      toggle(false);
      choose(item);
    });
  }
}
