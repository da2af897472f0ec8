"""Download the CT series of LIDC-IDRI from the NCI Imaging Data Commons (IDC)."""
