"""The exercises in code, a file for each chapter; the export copies them to hlstm/answers/."""
