rule pages:
    input:
        [],
