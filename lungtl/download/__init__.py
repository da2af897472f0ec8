"""Fetch LIDC-IDRI's CT series from the NCI Imaging Data Commons (IDC)."""
