// What a reload of this tab goes on with: the question, and what was drawn or set so far.

const NAME = "stedfast.desk";

/** Keep the state of a question for a person. */
export function remember(person, state) {
  try {
    sessionStorage.setItem(NAME, JSON.stringify({ person, ...state }));
  } catch {
    // A drawing too large for the browser's storage does not survive a reload.
  }
}

/** Return what was kept for a person, or null. */
export function remembered(person) {
  try {
    const saved = JSON.parse(sessionStorage.getItem(NAME));
    return saved?.person === person ? saved : null;
  } catch {
    return null;
  }
}

/** The question is done with. */
export function forget() {
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // Then nothing was kept either.
  }
}
