// A button that copies a block of input; what a block prints has none.
document.addEventListener("DOMContentLoaded", () => {
  const blocks = document.querySelectorAll('div[class*="highlight-"]:not(.highlight-text) > .highlight');
  if (navigator.clipboard) for (const block of blocks) {
    const button = Object.assign(document.createElement("button"), {
      type: "button", textContent: "Copy", onclick: async () => {
        await navigator.clipboard.writeText(block.querySelector("pre").innerText);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      },
    });
    block.classList.add("copyable");
    block.append(button);
  }
});
