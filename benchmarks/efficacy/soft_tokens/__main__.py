from benchmarks.efficacy.soft_tokens.experiment import main

main()
