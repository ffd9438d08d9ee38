// La page marche sans ce fichier : il ajoute le saut dans la vidéo, la
// correction des questions et des sous-titres de secours. Rien n'est enregistré.
"use strict";

const video = document.getElementById("video");

for (const element of document.querySelectorAll(".avec-js")) element.hidden = false;
for (const element of document.querySelectorAll(".sans-js")) element.hidden = true;

// Un bouton « 0:13 » devant chaque partie de la transcription.
for (const partie of document.querySelectorAll("[data-debut]")) {
  const debut = Number(partie.dataset.debut);
  const titre = partie.querySelector("h3");
  const ligne = document.createElement("div");
  const bouton = document.createElement("button");
  const temps = `${Math.floor(debut / 60)}:${String(debut % 60).padStart(2, "0")}`;
  ligne.className = "titre";
  bouton.type = "button";
  bouton.className = "temps";
  bouton.textContent = temps;
  bouton.setAttribute("aria-label", `${temps}, lire la vidéo à partir de : ${titre.textContent}`);
  bouton.addEventListener("click", () => {
    video.currentTime = debut;
    video.scrollIntoView({ block: "nearest" });
    video.play().catch(() => {});
  });
  titre.replaceWith(ligne);
  ligne.append(bouton, titre);
}

// Dans une page isolée (« sandbox »), le navigateur peut refuser le fichier de
// sous-titres : on reprend alors le texte de la transcription.
const piste = video.querySelector("track");
function sousTitrerDepuisLaTranscription() {
  const secours = video.addTextTrack("captions", "Français", "fr");
  const parties = [...document.querySelectorAll("[data-debut]")];
  parties.forEach((partie, rang) => {
    const debut = Number(partie.dataset.debut);
    const fin = rang + 1 < parties.length ? Number(parties[rang + 1].dataset.debut) : 50;
    const phrases = partie.querySelector("strong").textContent.match(/[^.]+\./g) || [];
    const lettres = phrases.reduce((total, phrase) => total + phrase.length, 0);
    let depuis = debut;
    for (const phrase of phrases) {
      const jusque = depuis + ((fin - debut) * phrase.length) / lettres;
      secours.addCue(new VTTCue(depuis, jusque, phrase.trim()));
      depuis = jusque;
    }
  });
  piste.remove();
  secours.mode = "showing";
}
// L'erreur a pu venir avant ce programme.
if (piste.readyState === HTMLTrackElement.ERROR) sousTitrerDepuisLaTranscription();
else piste.addEventListener("error", sousTitrerDepuisLaTranscription);

const questions = document.getElementById("questions");
document.getElementById("verifier").addEventListener("click", () => {
  let justes = 0;
  let vides = 0;
  const groupes = questions.querySelectorAll("fieldset");
  for (const groupe of groupes) {
    const choix = groupe.querySelector("input:checked");
    const retour = groupe.querySelector(".retour");
    const juste = Boolean(choix && "juste" in choix.dataset);
    retour.className = `retour ${juste ? "juste" : "faux"}`;
    if (!choix) {
      vides += 1;
      retour.textContent = "Choisissez une réponse.";
    } else {
      justes += juste ? 1 : 0;
      retour.textContent = `${juste ? "Juste." : "Pas encore."} ${retour.dataset.explication}`;
    }
  }
  document.getElementById("bilan").textContent = vides
    ? `Il reste ${vides} question${vides > 1 ? "s" : ""} sans réponse.`
    : `${justes} bonne${justes > 1 ? "s" : ""} réponse${justes > 1 ? "s" : ""} sur ${groupes.length}.`;
});
