from benchmarks.efficacy.maskdiffusion.experiment import main

main()
