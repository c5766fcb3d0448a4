"use strict";
// The browser's half of the app: light and dark, figures, forms made from signatures. No request leaves this server.
window.workbench = (() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const shared = JSON.parse(document.getElementById("workbench-style").textContent);
  const KEY = "workbench-theme";
  const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

  // ---- light and dark ------------------------------------------------------------------------------------------------
  const asked = new URLSearchParams(location.search).get("theme");
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const isDark = () => root.dataset.theme === "dark";
  const listeners = new Set();
  const apply = (name) => {
    root.dataset.theme = name;
    if (document.body) document.body.classList.toggle("dark", name === "dark");
    for (const button of document.querySelectorAll(".wb-theme")) button.setAttribute("aria-pressed", String(name === "dark"));
    for (const listener of listeners) listener();
  };
  apply(asked || stored() || (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => { if (!stored()) apply(system.matches ? "dark" : "light"); });
  // Gradio sets its own class once, from the system's setting; ours decides.
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => {
      if (document.body.classList.contains("dark") !== isDark()) document.body.classList.toggle("dark", isDark());
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    apply(root.dataset.theme);
  });
  const toggle = () => {
    const name = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEY, name); } catch { /* a private window: the choice lasts for this page */ }
    apply(name);
  };
  addEventListener("click", (event) => {
    if (event.target.closest(".wb-theme")) toggle();
    const copy = event.target.closest("[data-copy]");
    if (copy) navigator.clipboard.writeText(copy.dataset.copy).then(() => flash(copy, "Copied"));
  });
  const flash = (button, text) => {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1200);
  };

  // ---- figures -------------------------------------------------------------------------------------------------------
  let library;
  const plotly = () => {
    library ||= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = shared.plotly;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js could not be loaded"));
      document.head.append(script);
    });
    return library;
  };

  // The same exchange of colours as workbench.figures.style.theme: #rrggbb and rgba(r, g, b, a), everywhere in a figure.
  const turn = (node) => {
    if (Array.isArray(node)) return node.map(turn);
    if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, turn(v)]));
    if (typeof node !== "string") return node;
    if (/^#[0-9a-f]{6}$/i.test(node)) return shared.pairs[node.toUpperCase()] || node;
    const part = /^rgba\((\d+), (\d+), (\d+), ([\d.]+)\)$/.exec(node);
    if (!part) return node;
    const hex = "#" + part.slice(1, 4).map((n) => (+n).toString(16).padStart(2, "0")).join("").toUpperCase();
    const other = shared.pairs[hex];
    if (!other) return node;
    return `rgba(${[1, 3, 5].map((i) => parseInt(other.slice(i, i + 2), 16)).join(", ")}, ${part[4]})`;
  };

  // Pictures stand on the page's own ground: a pixel that has exactly the ground's colour is let through, in dark mode too.
  const ground = [1, 3, 5].map((i) => parseInt(shared.ground.slice(i, i + 2), 16));
  const pixels = (z) => {
    if (Array.isArray(z)) return z;
    const [high, wide, deep] = z.shape.split(",").map(Number);
    const flat = Array.from(atob(z.bdata), (c) => c.charCodeAt(0));
    return Array.from({ length: high }, (_, y) => Array.from({ length: wide }, (_, x) =>
      flat.slice((y * wide + x) * deep, (y * wide + x) * deep + deep)));
  };
  const clear = (trace) => trace.type !== "image" ? trace : { ...trace, colormodel: "rgba256", z: pixels(trace.z).map((row) =>
    row.map((p) => [...p.slice(0, 3), p.length > 3 ? p[3] : ground.every((v, i) => v === p[i]) ? 0 : 255])) };

  // A wide screen comes nearer to solids, which are placed for a phone. On a phone: room for a legend of several lines under
  // the switch, and no more height than a strip of pictures fills.
  const fit = (data, layout, width) => {
    const eye = layout.scene?.camera?.eye;
    if (width >= 700 && eye) {
      const near = Object.fromEntries(Object.entries(eye).map(([axis, v]) => [axis, 0.75 * v]));
      return { ...layout, scene: { ...layout.scene, camera: { ...layout.scene.camera, eye: near } } };
    }
    if (width >= 520) return layout;
    const picture = data.find((trace) => trace.type === "image");
    const { t = 0, b = 0, l = 0, r = 0 } = layout.margin || {};
    if (picture) {
      const high = (width - l - r) * picture.z.length / picture.z[0].length + t + b;
      return { ...layout, height: Math.min(layout.height, Math.round(high) + 8) };
    }
    const named = new Set(data.filter((trace) => trace.showlegend !== false && trace.name).map((trace) => trace.legendgroup || trace.name));
    if (!layout.updatemenus || layout.showlegend === false || named.size < 2) return layout;
    const extra = 19 * (named.size - 1);
    return { ...layout, height: layout.height + extra, margin: { ...layout.margin, t: t + extra },
      updatemenus: layout.updatemenus.map((menu) => ({ ...menu, pad: { ...menu.pad, b: (menu.pad?.b || 0) + extra } })) };
  };

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  };

  const figure = (element, props, watch) => {
    const part = (name) => element.querySelector(name);
    let shown = null;
    const draw = async () => {
      if (!props.value) return;
      shown = JSON.parse(props.value);
      part("h3").textContent = shown.title;
      part(".wb-caption").textContent = shown.caption;
      part("code").textContent = shown.cell || "";
      part("details").hidden = !shown.cell && !shown.csv;
      part("pre").hidden = part(".wb-copy").hidden = !shown.cell;
      part(".wb-csv").hidden = !shown.csv;
      const place = part(".wb-plot");
      place.setAttribute("aria-label", shown.alt);
      const drawn = (isDark() ? turn(shown) : shown);
      const data = drawn.data.map(clear);
      const layout = fit(data, drawn.layout, place.clientWidth);
      place.style.height = `${layout.height}px`;
      const Plotly = await plotly();
      await Plotly.react(place, structuredClone(data), { ...layout, autosize: true, paper_bgcolor: "rgba(0, 0, 0, 0)",
        plot_bgcolor: "rgba(0, 0, 0, 0)" }, { ...shared.config, responsive: true });
      element.dataset.drawn = String((+element.dataset.drawn || 0) + 1);
    };
    part(".wb-copy").addEventListener("click", (event) =>
      navigator.clipboard.writeText(shown.cell).then(() => flash(event.target, "Copied")));
    part(".wb-csv").addEventListener("click", () => save(`${shown.name}.csv`, "text/csv", shown.csv));
    part(".wb-html").addEventListener("click", async () => {
      const source = (await (await fetch(shared.plotly)).text()).replaceAll("</script", "<\\/script");
      const inside = JSON.stringify({ data: shown.data, layout: shown.layout }).replaceAll("<", "\\u003c");
      save(`${shown.name}.html`, "text/html", `<!doctype html><meta charset="utf-8"><title>${escape(shown.title)}</title>` +
        `<div id="f"></div><script>${source}</script><script>const f=${inside};Plotly.newPlot("f",f.data,f.layout,` +
        `${JSON.stringify(shared.config)})</script>`);
    });
    listeners.add(() => { if (element.isConnected) draw(); });
    watch("value", draw);
    draw();
  };

  // ---- forms made from signatures ------------------------------------------------------------------------------------
  const control = (field, id) => {
    const about = `id="${id}" name="${escape(field.name)}" aria-describedby="${id}-help"` + (field.error ? ' aria-invalid="true"' : "");
    const value = field.value ?? "";
    if (field.kind === "bool") return `<input type="checkbox" ${about} ${field.value ? "checked" : ""}>`;
    if (field.kind === "choice")
      return `<select ${about}>${field.choices.map((c) =>
        `<option value="${escape(c[1])}" ${c[1] === value ? "selected" : ""}>${escape(c[0])}</option>`).join("")}</select>`;
    const numeric = field.kind === "int" ? 'inputmode="numeric"' : field.kind === "float" ? 'inputmode="decimal"' : "";
    return `<input type="text" ${numeric} autocomplete="off" spellcheck="false" ${about} value="${escape(value)}" ` +
      `placeholder="${escape(field.placeholder || "")}">`;
  };
  let forms = 0;
  const form = (element, props, trigger, watch) => {
    const prefix = `wb-form-${++forms}`;
    const one = (field, i) => {
      const id = `${prefix}-${i}`;
      const label = `<label for="${id}">${escape(field.label)}</label>`;
      const head = field.kind === "bool" ? `<div class="wb-check">${control(field, id)}${label}</div>` : label + control(field, id);
      return `<div class="wb-field ${field.error ? "wb-wrong" : ""}">${head}<p id="${id}-help" class="wb-help">` +
        `${field.error ? `<strong role="alert">${escape(field.error)}</strong> ` : ""}${escape(field.help)}</p></div>`;
    };
    const render = () => {
      const fields = JSON.parse(props.value || "[]");
      const open = element.querySelector("details")?.open || fields.some((field) => field.more && field.error);
      const html = fields.map((field, i) => [field.more, one(field, i)]);
      const more = html.filter(([rare]) => rare).map(([, text]) => text);
      element.querySelector(".wb-form").innerHTML = html.filter(([rare]) => !rare).map(([, text]) => text).join("") +
        (more.length ? `<details ${open ? "open" : ""}><summary>More (${more.length})</summary>${more.join("")}</details>` : "");
    };
    const changed = (event) => {
      const input = event.target.closest("input, select");
      if (!input) return;
      const fields = JSON.parse(props.value || "[]");
      const field = fields.find((f) => f.name === input.name);
      field.value = input.type === "checkbox" ? input.checked : input.value;
      props.value = JSON.stringify(fields);
      if (event.type === "change") trigger("change");
    };
    element.addEventListener("input", changed);
    element.addEventListener("change", changed);
    watch("value", render);
    render();
  };

  // ---- addresses -----------------------------------------------------------------------------------------------------
  const parameter = (name) => new URLSearchParams(location.search).get(name) || "";
  const remember = (name, value) => {
    const url = new URL(location.href);
    if (value) url.searchParams.set(name, value); else url.searchParams.delete(name);
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  };
  return { figure, form, isDark, parameter, remember, toggle };
})();
