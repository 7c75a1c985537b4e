import pytest

from configs import ccpgan as configs
from jaxinpaint import systems
from jaxinpaint.core.system import Derived
from jaxinpaint.systems import ccpgan


def test_a_system_may_have_nothing_derived():
    assert systems.derived(configs.get_config("smoke")) == {}


def test_what_a_system_derives_follows_its_config(monkeypatch):
    def derived(config):
        return {"between": Derived("mean", lambda a, b, t: a, str(config.seed))}

    monkeypatch.setattr(ccpgan, "derived", derived, raising=False)
    config = configs.get_config("smoke")
    config.seed = 5
    assert systems.derived(config)["between"].digest == "5"
    config.system = "nope"
    with pytest.raises(ValueError, match="the systems here are"):
        systems.derived(config)
