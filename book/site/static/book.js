// What scrolls sideways can be reached and scrolled from the keyboard. The observer
// speaks when a box is laid out, so that asking for its width costs nothing.
const observer = new ResizeObserver((entries) => {
  for (const { target: box } of entries) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
});
document
  .querySelectorAll("div.math, .bd-article .pst-scrollable-table-container, .bd-article pre")
  .forEach((box) => observer.observe(box));

// The style sheet leaves out what is far below the screen. Once the reader moves, the
// browser lays out the sections in idle time, one at a time, so that heights are true.
const later = window.requestIdleCallback ?? setTimeout;
const sections = [...document.querySelectorAll(".bd-article section section")];
const show = () => {
  if (!sections.length) return;
  sections.shift().style.contentVisibility = "visible";
  later(show);
};
window.addEventListener("scroll", () => later(show), { once: true, passive: true });

// Paper is white, and nobody can open a solution on it.
window.addEventListener("beforeprint", () => {
  const { dataset } = document.documentElement;
  const { theme } = dataset;
  const closed = [...document.querySelectorAll("article details:not(.hide, [open])")];
  const set = (value, open) => {
    dataset.theme = value;
    for (const box of closed) box.open = open;
  };
  set("light", true);
  window.addEventListener("afterprint", () => set(theme, false), { once: true });
});

// The search quotes the article, without the lists and buttons around it.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  Search.htmlToText = (html, anchor) => {
    const article = new DOMParser().parseFromString(html, "text/html").querySelector("article");
    for (const e of article.querySelectorAll(".headerlink, .exported, mjx-assistive-mml")) e.remove();
    return ((anchor && article.querySelector(anchor)) || article).textContent;
  };
});
