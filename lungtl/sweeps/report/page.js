"use strict";

// Sort by clicking a column's name, or by #sort=COLUMN (from 0; -COLUMN: descending) in the address.
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  const numeric = [...body.rows].every((row) => key(row) === "" || !Number.isNaN(Number(key(row))));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values stay at the bottom
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    cell.setAttribute("aria-sort", i === column ? (descending ? "descending" : "ascending") : "none");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.querySelector("button").addEventListener("click", () => {
      // numbers start with the highest
      const first = cell.classList.contains("number") ? "descending" : "ascending";
      const sorted = cell.getAttribute("aria-sort");
      const descending = sorted === "none" || sorted === null ? first === "descending" : sorted === "ascending";
      sortBy(table, column, descending);
    });
  });
}

const requested = /^#sort=(-?)(\d+)$/.exec(location.hash);
const settings = document.querySelector("#settings table.sortable");
if (requested && Number(requested[2]) < settings.tHead.rows[0].cells.length) {
  sortBy(settings, Number(requested[2]), requested[1] === "-");
}

// The settings that differ between two runs.
const data = JSON.parse(document.getElementById("configs").textContent);
const [first, second] = ["first", "second"].map((id) => document.getElementById(id));
function compare() {
  const [a, b] = [first, second].map((select) => data.runs[select.selectedIndex].values);
  const rows = data.keys
    .map((key, i) => [key, a[i], b[i]])
    .filter(([, x, y]) => x !== y)
    .map((texts) => {
      const row = document.createElement("tr");
      row.append(
        ...texts.map((text) => {
          const cell = document.createElement("td");
          cell.textContent = text;
          return cell;
        }),
      );
      return row;
    });
  document.querySelector("#difference tbody").replaceChildren(...rows);
  document.querySelector("#difference table").hidden = rows.length === 0;
  document.querySelector("#same").hidden = rows.length > 0;
}
for (const select of [first, second]) {
  for (const run of data.runs) select.append(new Option(run.name));
  select.addEventListener("change", compare);
}
second.selectedIndex = Math.min(1, data.runs.length - 1);
compare();
