"""The tests run in float64, with every promotion that JAX can refuse refused."""

import math
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Thousands of small programs are compiled and run once each: compile them quickly.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Nor is the line of each operation looked up: a twentieth of the time.
jax.config.update("jax_traceback_in_locations_limit", 0)

settings.register_profile("seqjax", deadline=None, derandomize=True)
settings.load_profile("seqjax")


# The fast tier (`pytest -m fast`), by the beginnings of names: rules, operations, errors, and of
# every model one run with its gradient.
FAST = (
    "engine/test_errors.py",
    "engine/test_history.py",
    "engine/test_hoist.py",
    "engine/test_jax_names.py",
    "engine/test_layout.py",
    "engine/test_messages.py",
    "engine/test_rows.py",
    "engine/test_rules.py",
    "engine/test_schedule.py::test_the_size_of_a_step",
    "engine/test_schedule.py::test_on_a_cpu",
    "laws/test_gradients.py::test_rule_equals_autodiff_of_a_plain_scan[BPTT(chunk=None",
    "models/test_bidirectional.py::test_it_is_two_runs",
    "storage/test_saving.py::test_a_damaged_file",
    "storage/test_saving.py::test_files_of_each_release",
    "storage/test_saving.py::test_trees",
    "models/test_torch_reference.py::test_outputs_states_and_gradients_are_those_of_pytorch",
)

# Of what takes longest: by default another case, or another test of the same code, stands for it.
SLOW = (
    "engine/test_across.py::test_other_ways",
    "engine/test_across.py::test_the_parts_are_the_whole[deep]",
    "engine/test_affine.py::test_a_hundred_thousand_steps_are_exact_to_a_bound[0",
    "engine/test_affine.py::test_both_ways_are_one[everything-min-gru]",
    "engine/test_affine.py::test_both_ways_are_one[mask in chunks-lru",
    "engine/test_affine.py::test_both_ways_are_one[plain-min-gru",
    "engine/test_affine.py::test_second_order[associative-lru]",
    "engine/test_affine.py::test_second_order[loop-min-gru]",
    "engine/test_hlo.py::test_chunks_and_what_they_store_order_the_memory[slstm]",
    "engine/test_hlo.py::test_memory_grows_as_the_root_of_time_with_chunk_starts[lstm]",
    "engine/test_hlo.py::test_memory_grows_as_the_root_of_time_with_chunk_starts[slstm]",
    "engine/test_hlo.py::test_no_weight_gradient_per_example[gru-24-16-48]",
    "engine/test_hlo.py::test_no_weight_gradient_per_example[lstm-large]",
    "engine/test_rules.py::test_second_order_of_the_recursion[states",
    "engine/test_schedule.py::test_its_choice_is_right_over_several_chunks[narx",
    "engine/test_schedule.py::test_several_steps_at_once[lru-11]",
    "engine/test_schedule.py::test_several_steps_at_once[lstm-11]",
    "engine/test_schedule.py::test_several_steps_at_once[lstm-24]",
    "engine/test_user_functions.py::test_a_step_may_close_over_what_is_differentiated[context_in",
    "engine/test_user_functions.py::test_complex_states[chunk_starts]",
    "engine/test_user_functions.py::test_complex_states[states]",
    "examples/test_char_rnn.py::test_sample_writes_as_many_characters_as_asked_for[self",
    "examples/test_long_memory.py::test_where_the_gradient_is_exactly_0[adding-narx",
    "examples/test_silverbox.py::test_scoring[1",
    "examples/test_tasks.py::test_each_row_has_the_parameters_that_its_budget_allows[adding_200",
    "examples/test_tasks.py::test_each_row_has_the_parameters_that_its_budget_allows[copy",
    "examples/test_tasks.py::test_each_row_has_the_parameters_that_its_budget_allows[jsb",
    "examples/test_tasks.py::test_each_row_has_the_parameters_that_its_budget_allows[shakespeare",
    "interop/test_check.py::test_it_says_which_convention_fits[square blocks",
    "interop/test_cudnn.py::test_the_reference_implementation_of_jax[2",
    "interop/test_cudnn.py::test_the_reference_implementation_of_jax[3",
    "laws/test_batches.py::test_gradient_of_a_batch_is_the_sum_of_per_example_gradients[narx",
    "laws/test_batches.py::test_nested_vmap_and_an_inner_batch_axis[narx",
    "laws/test_batches.py::test_vmap_is_a_loop[bidirectional",
    "laws/test_batches.py::test_vmap_is_a_loop[narx",
    "laws/test_batches.py::test_vmap_is_a_loop[own-step",
    "laws/test_clip.py::test_steps_one_by_one_are_clipped_as_the_recursion_clips[narx]",
    "laws/test_distributed.py::test_a_batch_over_eight_devices",
    "laws/test_distributed.py::test_decoding_over_eight_devices",
    "laws/test_distributed.py::test_parameters_that_are_not_on_the_mesh_of_the_batch",
    "laws/test_export.py::test_any_batch_and_any_length[narx-chunks]",
    "laws/test_export.py::test_any_batch_and_any_length[own-step",
    "laws/test_export.py::test_any_batch_and_any_length[stack-chunks]",
    "laws/test_half_precision.py::test_pooled_gradients_are_those_of_float64[bidirectional",
    "laws/test_half_precision.py::test_pooled_gradients_are_those_of_float64[narx",
    "laws/test_half_precision.py::test_pooled_gradients_are_those_of_float64[own-step",
    "laws/test_loss_of_the_state.py::test_a_linear_recurrence[cell",
    "laws/test_loss_of_the_state.py::test_a_linear_recurrence[narx",
    "laws/test_loss_of_the_state.py::test_every_model[bidirectional]",
    "laws/test_loss_of_the_state.py::test_every_model[narx]",
    "laws/test_numerics.py::test_a_hundred_thousand_steps[gru",
    "laws/test_options.py::test_all_options_at_once[bidirectional]",
    "laws/test_options.py::test_all_options_at_once[narx]",
    "laws/test_options.py::test_all_options_at_once[stochastic]",
    "laws/test_second_order.py::test_a_model_inside_an_own_step_keeps_its_gradient[narx",
    "laws/test_second_order.py::test_a_model_inside_an_own_step_keeps_its_gradient[tdnn",
    "laws/test_second_order.py::test_a_model_inside_an_own_step_keeps_its_second_order",
    "laws/test_second_order.py::test_second_order[bidirectional]",
    "laws/test_second_order.py::test_second_order[narx]",
    "laws/test_shapes.py::test_no_steps[narx",
    "laws/test_transforms.py::test_export_round_trip_with_its_gradient[narx",
    "laws/test_transforms.py::test_outside_jit_nothing_is_compiled_twice_and_the_results_are_the_same[narx]",
    "laws/test_values.py::test_a_loop_of_models_keeps_nothing_alive",
    "models/test_bidirectional.py::test_layers_below_and_above_see_the_whole_series",
    "models/test_bidirectional.py::test_two_series_in_one_are_two_runs[False]",
    "models/test_dropout.py::test_check_cell_checks_what_draws[cell0]",
    "models/test_dropout.py::test_check_cell_checks_what_draws[cell2]",
    "models/test_dropout.py::test_check_cell_checks_what_draws[cell3]",
    "models/test_embed.py::test_padding_may_hold_anything[0-BPTT(chunk=2",
    "models/test_embed.py::test_padding_may_hold_anything[2-Autodiff",
    "models/test_embed.py::test_padding_may_hold_anything[2-BPTT(chunk=None",
    "models/test_gates.py::test_half_precision_is_normalized_in_float32[float16]",
    "models/test_initial_values.py::test_chrono[lstm]",
    "models/test_narx.py::test_lags_near_and_far_with_every_option[chunk-starts-near",
    "models/test_narx.py::test_lags_near_and_far_with_every_option[preactivations-before",
    "models/test_narx.py::test_lags_near_and_far_with_every_option[preactivations-far",
    "models/test_narx.py::test_memory_does_not_grow_with_the_lag[some",
    "models/test_narx.py::test_memory_does_not_grow_with_the_lag[with resets",
    "models/test_narx.py::test_what_is_fed_back_otherwise_is_proved_as_any_model_is[OpenLoop",
    "models/test_notes.py::test_any_number_of_layers[product over time-softmax-k=3-preactivations",
    "models/test_notes.py::test_any_number_of_layers[product over time-softmax-k=3-states",
    "models/test_notes.py::test_any_number_of_layers[squared error-sigmoid-k=3-chunk_starts",
    "models/test_slstm.py::test_from_minus_infinity_no_value_and_no_gradient_is_nan[heads-all",
    "models/test_slstm.py::test_from_minus_infinity_no_value_and_no_gradient_is_nan[heads-no",
    "models/test_slstm.py::test_gates_of_ten_thousand_stay_finite[sigmoid-float16]",
    "models/test_tdnn.py::test_export_for_any_batch_and_any_length[narx",
    "models/test_tdnn.py::test_gradients_summed_over_a_large_batch_in_half_precision[narx",
    "models/test_trajectory.py::test_states_are_those_of_a_loop[narx",
    "storage/test_exporting.py::test_every_model_runs_the_same_bits[bidirectional",
    "storage/test_exporting.py::test_every_model_runs_the_same_bits[narx",
    "storage/test_exporting.py::test_every_model_runs_the_same_bits[own-step",
    "storage/test_exporting.py::test_every_model_runs_the_same_bits[stack]",
    "test_check_cell.py::test_every_model_is_proved[narx]",
    "test_own_kind.py::test_a_users_own_kind_of_model_is_proved_like_any_other[model1]",
    "test_sample.py::test_draws_in_every_dtype_follow_the_distribution[float16",
    "test_sample.py::test_draws_in_every_dtype_follow_the_distribution[float64",
)


def pytest_addoption(parser):
    parser.addoption("--share", default="1/1", help="K/N: every Nth test, from the Kth on")


def pytest_collection_modifyitems(config, items):
    share, shares = map(int, config.getoption("--share").split("/"))
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if name.startswith(FAST) and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)
    if shares > 1:
        others = [item for number, item in enumerate(items) if (number - share) % shares]
        config.hook.pytest_deselected(items=others)
        items[:] = items[share % shares :: shares]


@pytest.fixture(autouse=True, scope="module")
def _release_compiled_code():
    """Thousands of compiled programs in one process exhaust its memory mappings."""
    yield
    if memory_mappings() > 10_000:
        jax.clear_caches()


def memory_mappings() -> float:
    """Of this process; Linux allows 65,530, other systems don't say."""
    try:
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return math.inf
