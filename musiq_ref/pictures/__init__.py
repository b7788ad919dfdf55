"""Pictures to learn from: painted scenes, distortions of known severity, and the synthetic set made of them."""
