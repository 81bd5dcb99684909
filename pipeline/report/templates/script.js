"use strict";
// Tables are sorted by the buttons in their heads; of equal rows the order stays.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const rows = [...body.rows].map((row) => [row.cells[column].dataset.value, row.cells[column].textContent, row]);
      rows.sort(([one, words], [other, otherWords]) => {
        const absent = (one === "") - (other === ""); // what is not known comes last, either way
        if (absent) return absent;
        const order = one !== undefined ? one - other : words.localeCompare(otherWords, "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows.map(([, , row]) => row));
    }
  }));
}
for (const choice of document.querySelectorAll("select[data-bodies]")) {
  const show = () => {
    for (const body of document.getElementById(choice.dataset.bodies).tBodies) body.hidden = body.dataset.body !== choice.value;
  };
  choice.addEventListener("change", show);
  show(); // a browser may keep the choice when the page is loaded again
}
for (const box of document.querySelectorAll("input[data-shows]")) {
  const show = () => {
    for (const part of document.querySelectorAll("[data-group]")) if (part.dataset.group === box.dataset.shows) part.hidden = !box.checked;
  };
  box.addEventListener("change", show);
  show();
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
