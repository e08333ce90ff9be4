"""Steps: functions over blocks with a declaration. The contract is `base`; `registry` finds a step by its key in the YAML."""
