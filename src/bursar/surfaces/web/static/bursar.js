// What the pages do by themselves: the viewer's zone and theme, hover texts, arrow keys in pictures, completion, figures that are
// renewed. Text is only ever set as text.
"use strict";
(() => {
  const body = document.body;
  const remember = (name, value) => { document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=strict`; };

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes("zone=")) {
    remember("zone", zone);
    if (!body.hasAttribute("data-zone-given") && zone !== body.dataset.zone && document.cookie.includes("zone=")) location.reload();
  }

  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      remember("theme", root.dataset.theme);
    });
  }

  const tip = document.getElementById("tip");
  const show = (at, x, y) => {
    tip.textContent = at.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, y - box.height - 10)}px`;
  };
  const tipped = (event) => event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  document.addEventListener("pointermove", (event) => { const at = tipped(event); if (at) show(at, event.clientX, event.clientY); else tip.hidden = true; });
  document.addEventListener("focusin", (event) => {
    const at = tipped(event);
    if (!at) { tip.hidden = true; return; }
    const box = at.getBoundingClientRect();
    show(at, box.left + box.width / 2, box.top);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const here = document.activeElement;
    if (!(event.key in steps) || !(here instanceof SVGAElement)) return;
    const all = [...here.closest("svg").querySelectorAll("a")];
    const next = all[all.indexOf(here) + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    here.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });

  // "Other times" takes the place of the chosen period.
  for (const form of document.querySelectorAll("form.filters")) {
    form.addEventListener("submit", () => { for (const input of form.querySelectorAll("input")) if (!input.value) input.disabled = true; });
    form.querySelector("select[name=since]")?.addEventListener("change", () => { for (const name of ["from", "until"]) form.elements[name].value = ""; });
    for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => form.requestSubmit());
  }
  addEventListener("pageshow", () => { for (const input of document.querySelectorAll("form.filters input")) input.disabled = false; });

  for (const input of document.querySelectorAll("[data-completes]")) {
    let asked = "";
    const complete = async () => {
      const name = input.form.elements[input.dataset.completes].value;
      const wanted = `${body.dataset.root}/values.json?${new URLSearchParams({ name, q: input.value })}`;
      if (!name || wanted === asked) return;
      asked = wanted;
      const answer = await fetch(wanted);
      if (!answer.ok || wanted !== asked) return;
      const found = (await answer.json()).rows;
      input.list.replaceChildren(...found.map((row) => { const option = document.createElement("option"); option.value = row.value; return option; }));
    };
    input.addEventListener("focus", complete);
    input.addEventListener("input", complete);
  }

  addEventListener("beforeprint", () => { for (const twin of document.querySelectorAll("details.twin")) twin.open = true; });

  // Figures that are renewed: the page's own JSON, every few seconds while somebody looks.
  if (body.dataset.live) {
    const renew = async () => {
      if (document.visibilityState !== "visible") return;
      try {
        const answer = await fetch(body.dataset.live, { headers: { accept: "application/json" } });
        if (!answer.ok) return;
        const found = await answer.json();
        for (const at of document.querySelectorAll("[data-cell]")) {
          const text = found.live[at.dataset.cell];
          const inner = at.querySelector("a") ?? at;
          if (text === undefined || inner.textContent === text) continue;
          inner.textContent = text;
          at.classList.add("fresh");
          setTimeout(() => at.classList.remove("fresh"), 1500);
        }
        for (const bar of document.querySelectorAll("[data-share]")) {
          const share = found.live[bar.dataset.share];
          if (share !== undefined) bar.setAttribute("width", String(1000 * Number(share)));
        }
        const lead = document.querySelector("[data-lead]");
        if (lead && found.lead && lead.textContent !== found.lead) lead.textContent = found.lead;
      } catch { /* the server is away: the next turn asks again */ }
    };
    setInterval(renew, 5000);
  }
})();
