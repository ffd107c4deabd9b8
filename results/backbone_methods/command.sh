export OMP_NUM_THREADS=1
train() {
    mutualnet pretrain --config-file pretrain_shapes OUTPUT_DIR output/classes_$1 "${@:2}"
    mutualnet evaluate --config-file pretrain_shapes OUTPUT_DIR output/classes_$1 "${@:2}"
}
train mutual
train us_net MUTUALNET.METHOD us_net
train full MUTUALNET.METHOD independent
train narrow MUTUALNET.METHOD independent MUTUALNET.WIDTH_RANGE "(0.25,0.25)"
