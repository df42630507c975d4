from benchmarks.efficacy.residuals.experiment import main

main()
