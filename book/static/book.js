// What scrolls sideways can be reached and scrolled from the keyboard.
window.addEventListener("load", () => {
  const boxes = document.querySelectorAll(
    "div.math, .bd-article .pst-scrollable-table-container, .bd-article pre",
  );
  const mark = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  (window.MathJax?.startup?.promise ?? Promise.resolve()).then(mark);
  window.addEventListener("resize", mark);
});
