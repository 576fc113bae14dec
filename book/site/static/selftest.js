// "Check" says of the answer that is chosen what the folded one says of it. Choosing alone
// says nothing: from the keyboard, one passes over all answers.
for (const box of document.querySelectorAll(".selftest")) {
  const status = box.querySelector("[role=status]");
  const check = () => {
    const chosen = [...box.querySelectorAll("input")].findIndex((input) => input.checked);
    const why = box.querySelectorAll("details > p")[chosen]?.cloneNode(true);
    status.replaceChildren(why ?? "Choose an answer first.");
  };
  box.querySelector("button").addEventListener("click", check);
  box.addEventListener("keydown", ({ key, target }) => {
    if (key === "Enter" && target.type === "radio") check();
  });
}
