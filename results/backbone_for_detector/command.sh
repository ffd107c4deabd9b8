export OMP_NUM_THREADS=1
train() {
    mutualnet pretrain --config-file pretrain_shapes OUTPUT_DIR output/classes_$1 "${@:2}"
    mutualnet evaluate --config-file pretrain_shapes OUTPUT_DIR output/classes_$1 "${@:2}"
}
train mutual_longer SOLVER.MAX_ITER 1500
train full_longer SOLVER.MAX_ITER 1500 MUTUALNET.METHOD independent
mutualnet export-backbone output/classes_full_longer/model_final.pth output/ordinary.pth
mutualnet import output/ordinary.pth output/ordinary_backbone.pth --resolutions 64

detect() {
    mutualnet train --config-file quickstart_shapes SOLVER.MAX_ITER 450 \
        OUTPUT_DIR output/from_$1 "${@:2}"
    mutualnet evaluate --config-file quickstart_shapes \
        --points 0.25x64 0.25x160 1.0x64 1.0x160 OUTPUT_DIR output/from_$1
}
detect nothing
detect ordinary MODEL.WEIGHTS output/ordinary_backbone.pth MUTUALNET.ALLOW_UNTRAINED_WIDTHS True
detect mutual MODEL.WEIGHTS output/classes_mutual_longer/model_final.pth
