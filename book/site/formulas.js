// Sets the formulas of one page: a list of {tex, display} comes in on standard input,
// and {formulas, sheet} goes out. The first argument is the folder of MathJax.
const root = process.argv[2];
const text = require("fs").readFileSync(0, "utf8");

global.MathJax = {
  loader: {
    paths: { mathjax: root },
    require,
    load: ["input/tex-base", "[tex]/ams", "output/chtml", "adaptors/liteDOM", "a11y/assistive-mml"],
  },
  // Without the package that sets an unknown command in red: here it is an error.
  tex: { packages: ["base", "ams"] },
  chtml: { fontURL: "fonts" },
  startup: { typeset: false },
};
// Two parts of this release lack a version, and the loader would say so.
console.log = console.warn = () => {};
require(`${root}/startup.js`);

MathJax.startup.promise.then(() => {
  const { adaptor, output, document } = MathJax.startup;
  const formulas = JSON.parse(text).map(({ tex, display }) => {
    const box = MathJax.tex2chtml(tex, { display });
    const [math] = adaptor.tags(box, "math");
    adaptor.setAttribute(math, "alttext", tex.trim());
    // book.css asks on paper how many em wide a formula is.
    if (display) adaptor.setStyle(box, "--width", output.getBBox(output.math, document).w.toFixed(2));
    // No page measures the height of a numbered row, in a browser or here.
    return adaptor.outerHTML(box).replaceAll(' style="height: NaNem;"', "");
  });
  const sheet = adaptor.textContent(MathJax.chtmlStylesheet());
  process.stdout.write(JSON.stringify({ formulas, sheet }));
});
