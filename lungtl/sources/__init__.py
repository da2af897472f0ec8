"""Where bags come from: each module turns one kind of input into `Bag`s. No torch in here."""
