// Files dropped onto an element.

/** `onFiles(files)` gets them; the element has the class `dropping` while files hover over it. */
export function acceptFiles(element, onFiles) {
  const holdsFiles = (event) => [...event.dataTransfer.types].includes("Files");
  element.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    element.classList.add("dropping");
  });
  element.addEventListener("dragleave", (event) => {
    if (!element.contains(event.relatedTarget)) element.classList.remove("dropping");
  });
  element.addEventListener("drop", (event) => {
    element.classList.remove("dropping");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    onFiles([...event.dataTransfer.files]);
  });
}
