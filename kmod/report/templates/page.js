"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const said = document.getElementById("said");

  // Tables: a click on a heading sorts, a second one turns the order round.
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim() : Number(value);
  };
  const isUnknown = (value) => value === "–" || value === "";
  const compare = (a, b) => {
    if (isUnknown(a) || isUnknown(b)) return 0;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const sort = (button) => {
    const heading = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const first = body.rows[0] && key(body.rows[0], column);
    const start = typeof first === "number" ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[heading.getAttribute("aria-sort")] || start;
    for (const each of heading.parentElement.cells) {
      each.setAttribute("aria-sort", each === heading ? order : "none");
    }
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      const last = isUnknown(a) - isUnknown(b); // In either order.
      return last || sign * compare(a, b);
    });
    body.append(...rows.map(([, row]) => row));
    said.textContent = `Sorted by ${button.textContent.trim()}, ${order}.`;
  };
  for (const button of all("table.sortable thead button")) {
    button.addEventListener("click", () => sort(button));
  }

  // Heat maps: one cell is in the order of the Tab key, arrows move it.
  const place = (cell) => [cell.parentElement.rowIndex, cell.cellIndex];
  const describe = (grid, cell) => {
    const [row, column] = place(cell);
    const text = cell.textContent.trim();
    const note = cell.dataset.note || (text ? `${text} %` : "nothing");
    const name = grid.rows[row].cells[0].textContent.trim();
    const head = grid.rows[0].cells[column].textContent.trim();
    return `${grid.dataset.row} ${name}, ${grid.dataset.column} ${head}: ${note}`;
  };
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const mark = (grid, cell) => {
    for (const each of all(".crossed", grid)) each.classList.remove("crossed");
    if (!cell) return;
    const [row, column] = place(cell);
    grid.rows[row].cells[0].classList.add("crossed");
    grid.rows[0].cells[column].classList.add("crossed");
  };
  const show = (grid, cell) => {
    const text = describe(grid, cell);
    document.getElementById(grid.dataset.readout).textContent = text;
    mark(grid, cell);
    tip.textContent = text;
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = box.left + box.width / 2 - own.width / 2;
    const above = box.top - own.height - 8;
    const most = document.documentElement.clientWidth - own.width - 8;
    tip.style.left = `${Math.max(8, Math.min(left, most))}px`;
    tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
  };
  const hide = (grid) => {
    tip.hidden = true;
    mark(grid, null);
    const readout = document.getElementById(grid.dataset.readout);
    const focused = document.activeElement;
    const isHere = grid.contains(focused) && focused.tagName === "TD";
    readout.textContent = isHere ? describe(grid, focused) : readout.dataset.hint;
  };
  const walk = (grid, cell, event) => {
    const [row, column] = place(cell);
    const lastRow = grid.rows.length - 1;
    const lastColumn = grid.rows[0].cells.length - 1;
    const whole = event.ctrlKey || event.metaKey;
    const targets = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [whole ? 1 : row, 1],
      End: [whole ? lastRow : row, lastColumn],
      PageUp: [row - 10, column],
      PageDown: [row + 10, column],
    };
    const target = targets[event.key];
    if (!target) return;
    event.preventDefault();
    const clip = (value, most) => Math.max(1, Math.min(value, most));
    const next = grid.rows[clip(target[0], lastRow)].cells[clip(target[1], lastColumn)];
    enter(grid, next);
  };
  const enter = (grid, cell) => {
    for (const each of all("td[tabindex]", grid)) each.removeAttribute("tabindex");
    cell.tabIndex = 0;
    cell.focus();
  };
  for (const grid of all("table[role=grid]")) {
    const on = (kind, act) =>
      grid.addEventListener(kind, (event) => {
        const cell = event.target.closest("td");
        if (cell) act(cell, event);
      });
    on("keydown", (cell, event) => {
      if (event.key === "Escape") hide(grid);
      else walk(grid, cell, event);
    });
    on("focusin", (cell) => show(grid, cell));
    on("mouseover", (cell) => show(grid, cell));
    on("click", (cell) => enter(grid, cell));
    grid.addEventListener("mouseleave", () => hide(grid));
    grid.addEventListener("focusout", () => hide(grid));
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Sections: the list says which one is read.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  if ("IntersectionObserver" in window) {
    const seen = new Set();
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) seen.add(target.id);
        else seen.delete(target.id);
      }
      const current = [...links.keys()].find((id) => seen.has(id));
      for (const [id, link] of links) {
        if (id === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-15% 0px -60% 0px" });
    for (const section of all("main > section")) watch.observe(section);
  }
})();
