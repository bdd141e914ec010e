"""The names a config may use for parts that live on higher floors (config may not import those).

Adding a loss, metric or inverter adds its name here and one line in its own folder's table;
`tests/config/test_names.py` holds the two together.
"""

# floor 5, losses: keys of `loss_weights`. The adversarial term has its own section.
LOSSES = ("l2", "lpips", "identity", "moco", "discriminator_features", "squeezenet_features", "mobilefacenet")
FACE_LOSSES = ("identity", "mobilefacenet")  # compare people; meaningless for scenes

# training: `optimizer.name`
OPTIMIZERS = ("adam", "ranger", "ranger_adabelief", "muon")

# losses that are metrics too, of which less is better
DISTANCES = ("l2", "lpips", "squeezenet_features", "discriminator_features")

# floor 5, metrics: entries of `metrics`. Time per image is always measured.
METRICS = (
    "l2",
    "psnr",
    "ms_ssim",
    "lpips",
    "squeezenet_features",
    "discriminator_features",
    "mobilefacenet",
    "identity",
    "dlib_identity",
    "dlib_distance",
    "fr_feature",
    "fsanet_yaw",
    "faceres_age",
    "emotion_happy",
    "fid",
    "kid_x1e3",
    "frechet_squeezenet",
)

# evaluation: entries of `classifiers`, which say how far an edit moves an image. `attributes` are classifiers that are
# fitted to labelled photos, the others networks that come trained
CLASSIFIERS = ("attributes", "ssrnet_age", "faceres_age", "fsanet_yaw", "emotion_happy")

# floor 5, inverters: entries of `methods`
PUBLISHED_METHODS = ("psp", "e4e", "restyle", "hyperstyle")  # of others; their weights lie in a file of their name
OPTIMISING_METHODS = ("sg2", "sg2_plus", "pti")  # for every image, in fp32 at the generator's size
PAPER_METHODS = ("w_encoder", "hyperinverter", *PUBLISHED_METHODS, *OPTIMISING_METHODS)  # of its tables and figures
METHODS = (*PAPER_METHODS, "phase3")
REFINED_METHODS = ("hyperinverter", "w_encoder")  # which `refine` has steps for
MOST_STRENGTH = 100  # of an edit, in either unit: far beyond it no image is left
MOST_ITERATIONS = 50  # of restyle and hyperstyle
# networks that methods which optimise per image (sg2, sg2_plus, pti) may measure with: LPIPS on VGG16 or AlexNet, and
# two that stand in for it. `auto` takes the first that is there: for a code, and for tuning a generator
PERCEPTUAL = ("lpips_vgg", "lpips", "squeezenet_features", "discriminator_features")
TUNING_PERCEPTUAL = ("lpips", "lpips_vgg", "squeezenet_features", "discriminator_features")

# datasets that prepare-data knows the size of; `folder` is any other
DATASETS = ("celeba_hq", "ffhq", "lsun_church", "folder")

# What every command but convert needs of a generator and a discriminator: key -> value, and in words.
SERVED = {"img_channels": (3, "colour images (img_channels 3)"), "c_dim": (0, "networks without classes (c_dim 0)")}
