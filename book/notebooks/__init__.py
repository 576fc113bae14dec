"""From notebooks to the package: reading, exporting, numbering."""
