"""Results as pictures: the colours of classes, overlays with a legend, and fragments for notebooks."""
