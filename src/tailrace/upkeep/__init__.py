"""Looking after what is there: the checks of the doctor, and the canary that it sends through the whole path."""
