// Une série de dix questions sur les fractions, sans réseau. Le score reste
// dans le navigateur ; là où il refuse de garder, la série marche quand même.
"use strict";

const LONGUEUR = 10;
const CLE = "maths-6e-fractions";
const $ = (id) => document.getElementById(id);

// --- Ce que le navigateur garde -------------------------------------------

const memoire = {
  possible: true,
  lire() {
    const neuf = { series: 0, dernier: null, meilleur: null };
    try {
      const lu = JSON.parse(localStorage.getItem(CLE));
      return lu && Number.isInteger(lu.series) ? { ...neuf, ...lu } : neuf;
    } catch {
      return neuf;
    }
  },
  ecrire(resultats) {
    try {
      localStorage.setItem(CLE, JSON.stringify(resultats));
    } catch {
      this.possible = false;
    }
  },
  effacer() {
    try {
      localStorage.removeItem(CLE);
    } catch {
      this.possible = false;
    }
  },
};

let resultats = memoire.lire();
memoire.ecrire(resultats);

function montrerResultats() {
  const note = (n) => (n === null ? "–" : `${n} / ${LONGUEUR}`);
  $("r-series").textContent = resultats.series;
  $("r-dernier").textContent = note(resultats.dernier);
  $("r-meilleur").textContent = note(resultats.meilleur);
  $("r-memoire").textContent = memoire.possible
    ? ""
    : "Ici, le navigateur ne garde pas les résultats\u00a0: ils seront oubliés quand la page sera fermée.";
}

// --- Petits outils --------------------------------------------------------

const hasard = (min, max) => min + Math.floor(Math.random() * (max - min + 1));
const tirer = (liste) => liste[hasard(0, liste.length - 1)];
const pgcd = (a, b) => (b ? pgcd(b, a % b) : a);

function melanger(liste) {
  for (let i = liste.length - 1; i > 0; i -= 1) {
    const j = hasard(0, i);
    [liste[i], liste[j]] = [liste[j], liste[i]];
  }
  return liste;
}

function element(nom, attributs = {}, ...enfants) {
  const e = document.createElement(nom);
  for (const [cle, valeur] of Object.entries(attributs)) e.setAttribute(cle, valeur);
  e.append(...enfants);
  return e;
}

function fraction(a, b) {
  const ns = "http://www.w3.org/1998/Math/MathML";
  const math = document.createElementNS(ns, "math");
  const barre = document.createElementNS(ns, "mfrac");
  for (const n of [a, b]) {
    const mn = document.createElementNS(ns, "mn");
    mn.textContent = n;
    barre.append(mn);
  }
  math.append(barre);
  return math;
}

function dessin(largeur, hauteur, texte) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${largeur} ${hauteur}`);
  svg.setAttribute("class", "figure");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", texte);
  const tracer = (nom, attributs, contenu = "") => {
    const e = document.createElementNS(ns, nom);
    for (const [cle, valeur] of Object.entries(attributs)) e.setAttribute(cle, valeur);
    e.textContent = contenu;
    svg.append(e);
  };
  return { svg, tracer };
}

function bande(pleines, parts) {
  const { svg, tracer } = dessin(480, 80, `Une bande partagée en ${parts} parts égales, ${pleines} coloriée${pleines > 1 ? "s" : ""}.`);
  const l = 476 / parts;
  for (let i = 0; i < parts; i += 1) {
    tracer("rect", { x: 2 + i * l, y: 4, width: l, height: 72, class: i < pleines ? "part" : "vide" });
  }
  return svg;
}

function disque(pleines, parts) {
  const { svg, tracer } = dessin(480, 220, `Un disque partagé en ${parts} parts égales, ${pleines} coloriée${pleines > 1 ? "s" : ""}.`);
  const point = (i) => {
    const angle = (2 * Math.PI * i) / parts - Math.PI / 2;
    return `${(240 + 104 * Math.cos(angle)).toFixed(1)} ${(110 + 104 * Math.sin(angle)).toFixed(1)}`;
  };
  for (let i = 0; i < parts; i += 1) {
    const grand = parts < 2 ? 1 : 0;
    tracer("path", { d: `M240 110L${point(i)}A104 104 0 ${grand} 1 ${point(i + 1)}z`, class: i < pleines ? "part" : "vide" });
  }
  return svg;
}

// --- Les sortes de questions ----------------------------------------------
// Chacune rend { contenu, corriger }. `corriger()` rend null s'il manque une
// réponse, sinon { juste, texte }.

function questionLire() {
  const parts = tirer([2, 3, 4, 5, 6, 8, 10]);
  const pleines = hasard(1, parts - 1);
  const figure = tirer([bande, disque])(pleines, parts);
  const champ = (id) => element("input", { id, type: "text", inputmode: "numeric", autocomplete: "off", maxlength: "3" });
  const haut = champ("haut");
  const bas = champ("bas");
  const contenu = [
    element("p", { class: "enonce" }, "Quelle fraction du dessin est coloriée\u00a0?"),
    figure,
    element(
      "div",
      { class: "saisie" },
      element("label", { for: "haut" }, "Numérateur"), haut, element("span"),
      bas, element("label", { for: "bas" }, "Dénominateur"),
    ),
  ];
  return {
    contenu,
    corriger() {
      const [a, b] = [haut, bas].map((c) => (/^\d+$/.test(c.value.trim()) ? Number(c.value) : NaN));
      if (Number.isNaN(a) || Number.isNaN(b)) return null;
      const juste = b > 0 && a * parts === b * pleines;
      const egale = juste && b !== parts ? " C’est bien une fraction égale." : "";
      return { juste, texte: [`${pleines} part${pleines > 1 ? "s" : ""} sur ${parts}\u00a0: `, fraction(pleines, parts), `.${egale}`] };
    },
  };
}

function questionColorier() {
  const parts = tirer([4, 5, 6, 8, 10]);
  const k = parts % 2 === 0 && Math.random() < 0.5 ? 2 : 1;
  const b = parts / k;
  const a = hasard(1, b - 1);
  const cases = element("div", { class: "cases", role: "group", "aria-label": `Bande de ${parts} cases` });
  for (let i = 1; i <= parts; i += 1) {
    const une = element("button", { type: "button", "aria-pressed": "false", "aria-label": `Case ${i}` });
    une.addEventListener("click", () => une.setAttribute("aria-pressed", String(une.getAttribute("aria-pressed") !== "true")));
    cases.append(une);
  }
  return {
    contenu: [
      element("p", { class: "enonce" }, "Colorier ", fraction(a, b), " de la bande."),
      element("p", {}, "Un clic, ou la touche Espace, colorie une case ou l’efface."),
      cases,
    ],
    corriger() {
      const pleines = cases.querySelectorAll('[aria-pressed="true"]').length;
      if (pleines === 0) return null;
      const explication = k === 1
        ? `La bande a ${parts} cases, il en faut ${a}.`
        : `${parts} ÷ ${b} = ${k}, puis ${a} × ${k} = ${a * k}\u00a0: il faut ${a * k} cases.`;
      return { juste: pleines === a * k, texte: [explication] };
    },
  };
}

function boutonsRadio(enonce, propositions) {
  const choix = element("div", { class: "choix" });
  for (const [valeur, ...texte] of propositions) {
    // Une fraction n’est pas lue partout : son nom est alors sa valeur, « 6/8 ».
    const nom = typeof texte[0] === "string" ? {} : { "aria-label": valeur };
    const bouton = element("input", { type: "radio", name: "choix", value: valeur, ...nom });
    choix.append(element("label", {}, bouton, element("span", {}, ...texte)));
  }
  const groupe = element("fieldset", {}, element("legend", { class: "enonce" }, ...enonce), choix);
  return { groupe, lire: () => groupe.querySelector("input:checked")?.value ?? null };
}

function questionPlacer() {
  const parts = tirer([2, 3, 4, 5]);
  const max = 2 * parts;
  const places = melanger([...Array(max - 1).keys()].map((i) => i + 1).filter((i) => i !== parts)).slice(0, 3);
  while (places.length < 3) places.push(max + places.length - 1);
  places.sort((x, y) => x - y);
  const bonne = hasard(0, 2);
  const lettres = ["A", "B", "C"];
  const fin = Math.max(max, ...places);
  const pas = 424 / fin;
  const description = places.map((p, i) => `${lettres[i]} à la graduation ${p}`).join(", ");
  const { svg, tracer } = dessin(480, 96, `Demi-droite graduée. Chaque unité est partagée en ${parts}. En comptant les graduations depuis 0\u00a0: ${description}.`);
  tracer("path", { d: "M14 52H460", class: "axe" });
  tracer("path", { d: "M474 52l-16 -8v16z", class: "fleche" });
  for (let i = 0; i <= fin; i += 1) {
    const x = 14 + i * pas;
    const unite = i % parts === 0;
    tracer("path", { d: `M${x} ${unite ? 38 : 44}V${unite ? 66 : 60}`, class: "axe" });
    if (unite) tracer("text", { x, y: 90 }, i / parts);
  }
  places.forEach((p, i) => {
    tracer("circle", { cx: 14 + p * pas, cy: 52, r: 7, class: "point" });
    tracer("text", { x: 14 + p * pas, y: 30, class: "lettre" }, lettres[i]);
  });
  const { groupe, lire } = boutonsRadio(
    ["Quel point correspond à ", fraction(places[bonne], parts), "\u00a0?"],
    lettres.map((l) => [l, `Le point ${l}`]),
  );
  groupe.querySelector("legend").after(svg);
  return {
    contenu: [groupe],
    corriger() {
      const lu = lire();
      const n = places[bonne];
      return lu && { juste: lu === lettres[bonne], texte: [`Une graduation vaut 1 sur ${parts}\u00a0; on avance de ${n} graduation${n > 1 ? "s" : ""} depuis 0\u00a0: c’est le point ${lettres[bonne]}.`] };
    },
  };
}

function questionComparer() {
  const b = hasard(2, 12);
  const a = tirer([b, hasard(1, b - 1), b + hasard(1, b)]);
  const { groupe, lire } = boutonsRadio(
    ["Comparer ", fraction(a, b), " et 1."],
    [["<", "plus petite que 1"], ["=", "égale à 1"], [">", "plus grande que 1"]],
  );
  const signe = a < b ? "<" : a > b ? ">" : "=";
  const mot = { "<": "plus petit que le", "=": "égal au", ">": "plus grand que le" }[signe];
  return {
    contenu: [groupe],
    corriger() {
      const lu = lire();
      return lu && { juste: lu === signe, texte: [`Le numérateur ${a} est ${mot} dénominateur ${b}\u00a0: `, fraction(a, b), `\u00a0${signe}\u00a01.`] };
    },
  };
}

function questionEgale() {
  const [a, b] = tirer([[1, 2], [1, 3], [2, 3], [1, 4], [3, 4], [2, 5], [3, 5], [5, 6]]);
  const k = hasard(2, 5);
  const bonne = [a * k, b * k];
  const fausses = [[a + k, b + k], [a * k, b], [a, b * k], [a * k, b * (k + 1)]]
    .filter(([x, y]) => x * b !== y * a);
  const propositions = melanger([bonne, ...melanger(fausses).slice(0, 2)]);
  const { groupe, lire } = boutonsRadio(
    ["Quelle fraction est égale à ", fraction(a, b), "\u00a0?"],
    propositions.map(([x, y]) => [`${x}/${y}`, fraction(x, y)]),
  );
  return {
    contenu: [groupe],
    corriger() {
      const lu = lire();
      return lu && { juste: lu === bonne.join("/"), texte: [`On multiplie ${a} et ${b} par ${k}\u00a0: `, fraction(a, b), " = ", fraction(...bonne), "."] };
    },
  };
}

function questionQuantite() {
  const b = tirer([2, 3, 4, 5, 10]);
  let a = hasard(1, b - 1);
  while (pgcd(a, b) !== 1) a = hasard(1, b - 1);
  const part = hasard(2, 12);
  const tout = b * part;
  const champ = element("input", { id: "nombre", type: "text", inputmode: "numeric", autocomplete: "off", maxlength: "5" });
  return {
    contenu: [
      element("p", { class: "enonce" }, "Combien font ", fraction(a, b), ` de ${tout}\u00a0?`),
      element("div", { class: "saisie" }, element("label", { for: "nombre" }, "Réponse"), champ),
    ],
    corriger() {
      const lu = champ.value.trim();
      if (!/^\d+$/.test(lu)) return null;
      return { juste: Number(lu) === a * part, texte: [`${tout} ÷ ${b} = ${part}, puis ${a} × ${part} = ${a * part}.`] };
    },
  };
}

// --- La série -------------------------------------------------------------

const SORTES = [questionLire, questionColorier, questionPlacer, questionComparer, questionEgale, questionQuantite];
let sortes = [];
let rang = 0;
let score = 0;
let question = null;

function commencer() {
  sortes = melanger([...SORTES, ...melanger([...SORTES]).slice(0, LONGUEUR - SORTES.length)]);
  rang = 0;
  score = 0;
  poser();
}

function poser() {
  question = sortes[rang]();
  $("t-exercice").textContent = `Question ${rang + 1} sur ${LONGUEUR}`;
  $("avance").value = rang;
  $("question").replaceChildren(...question.contenu);
  $("retour").textContent = "";
  $("valider").hidden = false;
  $("suivante").hidden = true;
}

function valider() {
  const correction = question.corriger();
  const retour = $("retour");
  if (!correction) {
    retour.className = "";
    retour.textContent = "Il manque une réponse.";
    return;
  }
  score += correction.juste ? 1 : 0;
  retour.className = correction.juste ? "juste" : "faux";
  retour.replaceChildren(correction.juste ? "Juste\u00a0! " : "Pas tout à fait. ", ...correction.texte);
  for (const e of $("question").querySelectorAll("input, button")) e.disabled = true;
  $("avance").value = rang + 1;
  $("valider").hidden = true;
  $("suivante").hidden = false;
  $("suivante").textContent = rang + 1 < LONGUEUR ? "Question suivante" : "Voir mon score";
  $("suivante").focus();
}

function finir() {
  resultats = {
    series: resultats.series + 1,
    dernier: score,
    meilleur: Math.max(score, resultats.meilleur ?? 0),
  };
  memoire.ecrire(resultats);
  montrerResultats();
  $("t-exercice").textContent = "Série terminée";
  const mot = score >= 9 ? "Bravo\u00a0!" : score >= 6 ? "C’est bien." : "Relire la leçon, puis recommencer\u00a0: ça va venir.";
  $("question").replaceChildren(element("p", { class: "enonce" }, `Score\u00a0: ${score} sur ${LONGUEUR}. ${mot}`));
  $("retour").textContent = "";
  $("suivante").textContent = "Nouvelle série";
}

$("valider").addEventListener("click", valider);
$("question").addEventListener("keydown", (evenement) => {
  if (evenement.key === "Enter" && evenement.target.matches("input")) {
    evenement.preventDefault();
    valider();
  }
});
$("suivante").addEventListener("click", () => {
  rang += 1;
  if (rang < LONGUEUR) poser();
  else if (rang === LONGUEUR) finir();
  else commencer();
  $("t-exercice").focus();
});
$("effacer").addEventListener("click", () => {
  memoire.effacer();
  resultats = { series: 0, dernier: null, meilleur: null };
  montrerResultats();
});

$("exercice").hidden = false;
$("resultats").hidden = false;
montrerResultats();
commencer();
