"""From DICOM files to CT volumes in Hounsfield units: headers, series, pixels, 1 mm slices."""
