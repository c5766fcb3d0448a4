"use strict";
(() => {
  const { pairs, config } = JSON.parse(document.getElementById("style").textContent);
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // The same exchange of colours as workbench.figures.style.theme: #rrggbb and rgba(r, g, b, a), everywhere in the figure.
  const turn = (node) => {
    if (Array.isArray(node)) return node.map(turn);
    if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, turn(v)]));
    if (typeof node !== "string") return node;
    if (/^#[0-9a-f]{6}$/i.test(node)) return pairs[node.toUpperCase()] || node;
    const part = /^rgba\((\d+), (\d+), (\d+), ([\d.]+)\)$/.exec(node);
    if (!part) return node;
    const hex = "#" + part.slice(1, 4).map((n) => (+n).toString(16).padStart(2, "0")).join("").toUpperCase();
    const other = pairs[hex];
    if (!other) return node;
    const rgb = [1, 3, 5].map((i) => parseInt(other.slice(i, i + 2), 16));
    return `rgba(${rgb.join(", ")}, ${part[4]})`;
  };

  const draw = (dark, width) => {
    for (const place of document.querySelectorAll(".plot")) {
      const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
      const { data, layout } = dark ? turn(figure) : figure;
      layout.autosize = !width;
      if (width) {
        // On paper the buttons go, with the room they took, and the figure is a little lower so that two fit on a page.
        layout.margin.t -= layout.meta.buttons;
        Object.assign(layout, { width, height: 0.9 * (layout.height - layout.meta.buttons), updatemenus: [] });
      }
      place.style.height = layout.height + "px";
      Plotly.react(place, data, layout, { ...config, responsive: !width });
    }
  };

  const button = document.querySelector(".switch");
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
    draw(isDark());
  });
  system.addEventListener("change", () => { label(); draw(isDark()); });
  addEventListener("beforeprint", () => draw(false, /*PRINT_WIDTH*/));
  addEventListener("afterprint", () => draw(isDark()));
  label();
  draw(isDark());
})();
