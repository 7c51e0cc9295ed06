"""What Paddle's errors mean in a run of several processes: a lost one, the device, or neither."""

from types import SimpleNamespace

import pytest

from passl.distributed.processes import LostProcess, join_processes, lost_process
from passl.engine.trainer import _explained_errors
from passl.utils.device_errors import explain_device_error

TRACE = (
    "\n\n--------------------------------------\nC++ Traceback (most recent call last):\n"
    "--------------------------------------\n"
    "0   paddle::distributed::EagerReducer::FusedAllReduceSchedule(paddle::distributed::EagerGroup*"
    ", int)\n1   paddle::distributed::ProcessGroupNCCL::AllReduce(phi::DenseTensor*, phi::Dense"
    "Tensor const&, paddle::distributed::AllreduceOptions const&, bool, bool)\n\n"
    "----------------------\nError Message Summary:\n----------------------\n"
)
# gloo's are what an exchange with a process that had ended said here (3.3.1; 2.6.2 but for the line
# number). Issues have the others: 7380 of PaddleDetection, 3171 of PaddleSpeech, 1646 of PaddleNLP
# and 42228 of Paddle; NCCL's error 6 and the traces are put together from Paddle's sources.
LOST = [
    RuntimeError(
        "[/paddle/third_party/gloo/gloo/transport/tcp/pair.cc:584] TIMEOUT self_rank = 0 pair_rank "
        "= 1 peer_str = [127.0.0.1]:49560"
    ),
    RuntimeError(
        "[/paddle/third_party/gloo/gloo/transport/tcp/pair.cc:784] connect [127.0.0.1]:40868: "
        "Connection refused"
    ),
    OSError(
        "(External) NCCL error(2), unhandled system error. \n  [Hint: Please search for the error "
        "code(2) on website (https://docs.nvidia.com/deeplearning/nccl/) to get Nvidia's official "
        "solution.] (at /paddle/paddle/fluid/distributed/collective/ProcessGroupNCCL.cc:236)\n"
    ),
    OSError(
        TRACE + "ExternalError: NCCL error(6), remote process exited or there was a network error. "
        "\n  [Hint: 'ncclRemoteError'. A call failed possibly due to a network error.] (at /paddle)"
    ),
]
DEVICE = [
    OSError(
        "(External) NCCL error(1), unhandled cuda error. \n  [Hint: 'ncclUnhandledCudaError'. A "
        "call to a CUDA function failed.] (at /paddle/fluid/platform/collective_helper.cc:100)"
    ),
    RuntimeError(
        "(PreconditionNotMet) The third-party dynamic library (libnccl.so) that Paddle depends on "
        "is not configured correctly. (error code is libnccl.so: cannot open shared object file: "
        "No such file or directory)\n  Suggestions:\n  1. Check if the third-party dynamic library"
    ),
    RuntimeError(
        TRACE + "ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate "
        "98.000244MB memory on GPU 0, 6.000000GB memory has been allocated and available memory "
        "is only 0.000000B."
    ),
    OSError(TRACE + "ExternalError: CUDA error(700), an illegal memory access was encountered."),
]
NEITHER = [
    ValueError("shapes differ"),
    RuntimeError(TRACE + "InvalidArgumentError: The shapes of inputs differ.\n  [Hint: nccl]"),
    ConnectionResetError(104, "Connection reset by peer"),  # of a worker, or the board
    RuntimeError(""),
]


def raised(error, size=2):
    """Returns what becomes of an error during a run."""
    run = SimpleNamespace(processes=SimpleNamespace(size=size), folder="runs/one")
    with pytest.raises(Exception) as caught, _explained_errors(run):
        raise error
    return caught.value


@pytest.mark.parametrize("error", LOST)
def test_the_other_end_is_gone(error):
    found = raised(error)
    assert isinstance(found, LostProcess) and found.exit_code == 75
    assert "another process of the run has ended" in str(found) and "\n" not in str(found)
    assert not isinstance(raised(error, size=1), LostProcess), "there is no other process"
    assert explain_device_error(error, "", "") is None


@pytest.mark.parametrize("error", DEVICE)
def test_the_device_is_at_fault(error):
    assert raised(error) is error, "left to the command"
    assert explain_device_error(error, "lower the batch size", "start again").exit_code == 2


@pytest.mark.parametrize("error", NEITHER)
def test_it_is_neither(error):
    assert lost_process(error) is None
    assert not isinstance(raised(error), LostProcess)


def test_a_lost_process_is_told_by_the_line_that_says_why():
    assert "(ExternalError: NCCL error(6), remote process exited" in str(lost_process(LOST[3]))


@pytest.mark.parametrize("error", [LOST[2], DEVICE[1]])
def test_joining_tells_what_is_wrong_with_the_device_and_what_with_the_network(error, monkeypatch):
    def fails():
        raise error

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr("paddle.distributed.init_parallel_env", fails)
    said = "libnccl" if error in DEVICE else r"NCCL error\(2\)"
    with pytest.raises(Exception, match=said) as got:
        join_processes()
    assert (got.value is error) == (error in DEVICE)
    assert isinstance(got.value, LostProcess) == (error in LOST)
