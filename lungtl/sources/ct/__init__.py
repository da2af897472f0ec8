"""CT volumes in Hounsfield units from DICOM files: series, headers, pixels, 1 mm slices."""
