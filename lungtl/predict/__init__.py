"""`python -m lungtl.predict`: from a folder of DICOM series to probabilities and pages that a person reads."""
