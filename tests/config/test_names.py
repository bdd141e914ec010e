"""The names a config may use are those of the tables on higher floors."""

from hyperinverter.config import names


def test_losses_agree():
    from hyperinverter.losses import LOSSES

    assert set(LOSSES) == set(names.LOSSES) and set(names.FACE_LOSSES) <= set(names.LOSSES)


def test_metrics_agree():
    from hyperinverter.metrics import METRICS

    assert list(METRICS) == list(names.METRICS)


def test_distances_are_losses_and_metrics_of_which_less_is_better():
    from hyperinverter.metrics import METRICS

    assert {name for name in names.LOSSES if name in METRICS and METRICS[name].better == "lower"} == set(
        names.DISTANCES
    )


def test_judges_agree():
    from hyperinverter.extractors.face_judges import FACE_CLASSIFIERS

    assert ("attributes", *FACE_CLASSIFIERS) == names.CLASSIFIERS


def test_methods_agree():
    from hyperinverter.inverters import INVERTERS

    assert set(INVERTERS) == set(names.METHODS)


def test_perceptual_networks_agree():
    from hyperinverter.inverters.perceptual import DOWNLOADED

    assert (*DOWNLOADED, "discriminator_features") == names.PERCEPTUAL


def test_optimizers_agree():
    from hyperinverter.training.optim import OPTIMIZERS

    assert set(OPTIMIZERS) == set(names.OPTIMIZERS)
