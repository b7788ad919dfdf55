// Which models this engine computes: COMPUTED, from computes.json, has every field of a configuration that it knows,
// with the values that it can compute; null: all.
"use strict";

/** Throws an Error, in one sentence, for a configuration that would be computed wrongly. */
function check_config(config, known = COMPUTED, path = "") {
  for (const [field, value] of Object.entries(config)) {
    const allowed = known[field];
    if (allowed && !Array.isArray(allowed)) check_config(value, allowed, `${field}.`);
    else if (allowed === undefined || (allowed && !allowed.includes(value)))
      throw new Error(`a model with ${path}${field} = ${JSON.stringify(value)} is not computed here; use musiq_ref in Python`);
  }
}
