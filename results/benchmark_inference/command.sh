OMP_NUM_THREADS=1 mutualnet benchmark --rounds 30
