"""The sentence that everything meant for another system carries."""

NOTICE = "Research software, not a medical device: not for diagnosis or any decision about a patient."
