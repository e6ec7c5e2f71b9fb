// Sorts a table by the column whose heading is clicked; the page is whole without it.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort");
      const numeric = head.classList.contains("number");
      const up = was ? was === "descending" : !numeric;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => {
        const cell = row.cells[place];
        if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
        return cell.classList.contains("none") || numeric ? null : cell.textContent;
      };
      const order = (a, b) => {
        const [one, other] = [value(a), value(b)];
        if (one === null || other === null) return (one === null) - (other === null);
        const way = typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
        return up ? way : -way;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
