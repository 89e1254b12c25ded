(() => {
  "use strict";
  const say = (words) => {
    let live = document.getElementById("wf-live");
    if (!live) {
      live = document.createElement("div");
      live.id = "wf-live";
      live.className = "wf-quiet";
      live.setAttribute("role", "status");
      live.setAttribute("aria-live", "polite");
      document.body.append(live);
    }
    live.textContent = "";
    setTimeout(() => { live.textContent = words; }, 50);
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a page that is not on loopback or HTTPS has no clipboard
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  const fill = (id, text) => {
    const area = document.querySelector(`#${id} textarea, #${id} input`);
    if (!area) return;
    const kind = area.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(area, text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const tell = (input, words, held) => {
    document.getElementById(`${input.id}-name`).textContent = words;
    document.getElementById(`${input.id}-drop`).hidden = !held;
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.hasAttribute("data-copy")) {
      await copy(button.parentElement.querySelector("pre").textContent);
    } else if (button.hasAttribute("data-copy-link")) {
      await copy(location.origin + location.pathname + button.closest(".wf-answer").dataset.link);
    } else if (button.classList.contains("wf-drop")) {
      const input = document.getElementById(button.id.replace(/-drop$/, ""));
      input.value = "";
      fill(input.dataset.into, "");
      tell(input, "removed", false);
      return;
    } else return;
    const before = button.textContent;
    button.textContent = "Copied";
    say("Copied");
    setTimeout(() => { button.textContent = before; }, 1500);
  });

  document.addEventListener("change", async (event) => {
    const input = event.target.closest("input[type=file][data-into]");
    if (!input || !input.files.length) return;
    const file = input.files[0];
    const most = Number(input.dataset.most);
    if (file.size > most) {
      input.value = "";
      fill(input.dataset.into, "");
      tell(input, `${file.name} has more than ${most / 2 ** 20} MiB: it is not read`, false);
      return;
    }
    fill(input.dataset.into, await file.text());
    tell(input, `${file.name} is used`, true);
  });

  let asked = false;
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".wf-ask")) return;
    asked = true;
    say("Computing");
  }, true);

  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("#wf-form input, #wf-tabs .wf-grid input");
    if (event.key !== "Enter" || !field || field.matches("[role=combobox], [type=file]")) return;
    document.getElementById(`wf-ask-${document.body.dataset.tab}`)?.click();
  });

  // Of two questions sent at once the answers may come the other way round: the last one's stays.
  const lasts = new Map();
  const answered = (answer) => {
    const place = answer.closest(".wf-result")?.id;
    const whole = answer.closest("[data-question]") ?? answer;
    const number = Number(whole.dataset.question ?? 0);
    const last = lasts.get(place);
    if (last && number < last.number) {
      whole.outerHTML = last.html;
      return;
    }
    answer.dataset.seen = "1";
    lasts.set(place, { number, html: whole.outerHTML });
    say(answer.dataset.said);
    const link = answer.dataset.link;
    if (!asked) return;
    if (link && link !== location.search) history.pushState(null, "", link);
    if (innerWidth < 720) answer.scrollIntoView({ block: "start" });
  };

  const tabOf = () => {
    const chosen = document.querySelector('#wf-tabs [role="tab"][aria-selected="true"]');
    const name = chosen && /wf-tab-(\w+)/.exec(chosen.id + " " + chosen.getAttribute("aria-controls"));
    if (name) document.body.dataset.tab = name[1];
  };

  // What the keyboard has no business in: a browser stops at a list because it scrolls, and
  // closing it loses the place; the config's text is filled in by its file.
  const skip = () => {
    document.querySelectorAll("[role=listbox]:not([tabindex]), #wf-config textarea:not([tabindex])")
      .forEach((element) => { element.tabIndex = -1; });
  };

  // An answer that is changed in place loses the mark that it was seen.
  new MutationObserver(() => {
    tabOf();
    skip();
    document.querySelectorAll(".wf-answer:not([data-seen])").forEach(answered);
  }).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-selected", "data-seen"] });

  addEventListener("popstate", () => location.reload());
})();
