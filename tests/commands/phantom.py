"""Imported by the clean process of the lab: its forks need not cluster the nodules of LIDC-IDRI once more."""

from lungtl.sources.phantom import PhantomRecipe, choose_scans

choose_scans(PhantomRecipe(scans=4))
