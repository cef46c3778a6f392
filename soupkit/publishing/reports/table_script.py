"""The only script of a page: a click on a column's head sorts by it, a button saves a table as CSV.

It is the same for every page, and the page's policy names its digest, so that a browser runs no other.
"""

from base64 import b64encode
from hashlib import sha256

SCRIPT = """
"use strict";
// What a cell says, in the button that heads a column or in the cell itself; the interval below it apart.
const parts = cell => [...(cell.querySelector("button") || cell).childNodes];
const said = (cell, small) => parts(cell).filter(node => (node.className === "ci") === small)
  .map(node => node.textContent).join("").trim();
const shown = cell => cell ? said(cell, false) : "";
const plain = text => text.replace(/[\\u2212]/g, "-").replace(/,/g, "");
const number = text => /^[+-]?[\\d.]+(e[+-]?\\d+)?$/.test(plain(text)) ? parseFloat(plain(text)) : NaN;
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const rows = [...body.rows];
      const numbers = rows.filter(row => !isNaN(number(shown(row.cells[column])))).length;
      const numeric = 2 * numbers > rows.length || (numbers && rows.every(
        row => ["", "\\u2013"].includes(shown(row.cells[column])) || !isNaN(number(shown(row.cells[column])))));
      const key = row => numeric ? number(shown(row.cells[column])) : shown(row.cells[column]);
      const missing = value => numeric && isNaN(value);
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const order = numeric ? x - y : x.localeCompare(y);
        return down ? order : -order;
      });
      body.append(...rows);
    });
  });
  const save = document.createElement("button");
  save.type = "button";
  save.className = "csv";
  save.textContent = "CSV";
  save.title = "Save this table as CSV";
  save.addEventListener("click", () => {
    const words = cell => said(cell, false) + (said(cell, true) ? " (" + said(cell, true) + ")" : "");
    // A spreadsheet takes what begins so for a formula, and runs it.
    const tame = text => /^[=@\\t+-]/.test(text) && isNaN(number(text)) ? "'" + text : text;
    const quoted = cell => '"' + tame(words(cell)).replace(/"/g, '""') + '"';
    const text = [...table.rows].map(row => [...row.cells].map(quoted).join(",")).join("\\r\\n") + "\\r\\n";
    const link = document.createElement("a");
    link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
    const title = table.caption ? table.caption.textContent.slice(0, 40) : "table";
    link.download = title.replace(/[^\\w]+/g, "-") + ".csv";
    link.click();
  });
  table.closest(".scroll").after(save);
}
"""

DIGEST = "sha256-" + b64encode(sha256(SCRIPT.encode()).digest()).decode()
