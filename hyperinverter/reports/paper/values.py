"""The numbers that the paper prints: its Tables 1 to 3 and the shares of Figures 6 and 10.

Source: HyperInverter, Dinh et al., CVPR 2022 (arXiv:2112.00719). Measured on CelebA-HQ's 2,824 test photos at 1024 px
and LSUN church's 300 at 256 px, on one V100: another domain's numbers stand beside them, not against them.
"""

METRICS = ("l2", "lpips", "identity", "fid", "kid_x1e3", "psnr", "ms_ssim", "seconds")  # columns of table 1

# kind of domain -> method -> METRICS; None: not measured there
TABLE_1: dict[str, dict[str, tuple[float | None, ...]]] = {
    "faces": {
        "sg2_plus": (0.0346, 0.1250, 0.6669, 14.39, 5.41, 20.8771, 0.7181, 270),
        "pti": (0.0084, 0.0851, 0.8387, 13.83, 5.06, 25.3447, 0.7799, 104),
        "psp": (0.0351, 0.1613, 0.5596, 24.20, 12.13, 20.3277, 0.6496, 0.0746),
        "e4e": (0.0479, 0.1992, 0.4963, 27.57, 13.90, 19.0703, 0.6231, 0.0797),
        "restyle": (0.0436, 0.1907, 0.5036, 24.16, 10.80, 19.4076, 0.6309, 0.1932),
        # of Phase I, "without Phase II" of table 3 has these four
        "w_encoder": (0.0539, 0.2145, 0.3983, None, None, 18.6522, None, None),
        "hyperinverter": (0.0243, 0.1054, 0.6013, 15.88, 5.63, 21.4417, 0.6725, 0.0920),
    },
    "scenes": {
        "sg2_plus": (0.1668, 0.3250, None, 50.00, 7.32, 14.8427, 0.4797, 181),
        "pti": (0.0506, 0.0971, None, 76.21, 28.29, 19.0105, 0.6968, 69),
        "psp": (0.1107, 0.3590, None, 57.42, 14.35, 15.7509, 0.4070, 0.0521),
        "e4e": (0.1414, 0.4209, None, 55.40, 11.03, 14.7071, 0.3481, 0.0534),
        "restyle": (0.1272, 0.3775, None, 52.16, 9.04, 15.1849, 0.3878, 0.1028),
        "hyperinverter": (0.0910, 0.2226, None, 46.96, 6.82, 16.7152, 0.5762, 0.0661),
    },
}

STRENGTHS = (-3, -2, -1, 1, 2, 3)  # γ of table 2
# what is measured -> method -> change at STRENGTHS: years by DEX VGG, degrees by FacePoseNet, on faces alone
TABLE_2: dict[str, dict[str, tuple[float, ...]]] = {
    "age": {
        "e4e": (-9.51, -5.6, -2.44, 2.72, 6.82, 11.64),
        "restyle": (-4.55, -2.78, -1.2, 1.24, 3.47, 5.61),
        "sg2_plus": (-5.45, -3.79, -1.92, 2.17, 4.15, 6.79),
        "pti": (-11.17, -6.71, -3.15, 2.68, 6.08, 10.3),
        "w_encoder": (-22.69, -15.96, -5.51, 6.55, 13.04, 20.41),
        "hyperinverter": (-20.58, -12.01, -4.56, 4.78, 9.8, 14.25),
    },
    "yaw": {
        "e4e": (7.68, 5.21, 2.75, -2.75, -5.36, -7.96),
        "restyle": (5.14, 3.57, 1.85, -1.77, -3.50, -5.14),
        "sg2_plus": (5.79, 3.99, 2.00, -1.90, -3.83, -5.70),
        "pti": (8.50, 5.96, 3.15, -2.95, -5.89, -8.88),
        "w_encoder": (13.63, 9.01, 4.64, -4.99, -9.83, -15.06),
        "hyperinverter": (11.56, 7.73, 4.01, -4.17, -8.39, -12.93),
    },
}
JUDGES = {"ssrnet_age": "age", "faceres_age": "age", "fsanet_yaw": "yaw"}  # ours -> what of table 2 it measures

TABLE_3_METRICS = ("l2", "lpips", "identity", "psnr")
# row of the ablate configs -> TABLE_3_METRICS, on human faces
TABLE_3: dict[str, tuple[float, ...]] = {
    "full": (0.0243, 0.1054, 0.6013, 21.4417),  # D = 256
    "without Phase II": (0.0539, 0.2145, 0.3983, 18.6522),
    "without features of the Phase I image": (0.0313, 0.1264, 0.5412, 20.4963),
    "shared code": (0.0287, 0.1173, 0.5768, 20.7693),
    "D = 32": (0.0378, 0.1492, 0.5251, 19.8097),
    "D = 64": (0.0308, 0.1285, 0.5571, 20.5361),
    "D = 128": (0.0253, 0.1103, 0.5939, 21.2115),
    "D = 256": (0.0243, 0.1054, 0.6013, 21.4417),
}

# figures 6 (faces) and 10 (scenes): task -> method -> share of votes that put it first
FIRST_PLACES: dict[str, dict[str, dict[str, float]]] = {
    "faces": {
        "reconstruction": {"e4e": 0.163, "restyle": 0.118, "hyperinverter": 0.718},
        "editing": {"e4e": 0.200, "restyle": 0.206, "hyperinverter": 0.594},
    },
    # e4e's and ReStyle's shares of reconstructions are told only in part
    "scenes": {
        "reconstruction": {"hyperinverter": 0.843},
        "editing": {"e4e": 0.062, "restyle": 0.167, "hyperinverter": 0.772},
    },
}


def of_table_1(kind: str, method: str, metric: str) -> float | None:
    """The paper's cell; `metric` is one of METRICS, and others have none."""
    row = TABLE_1.get(kind, {}).get(method)
    return row[METRICS.index(metric)] if row and metric in METRICS else None
