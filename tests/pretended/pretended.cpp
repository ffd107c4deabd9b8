// A pretended accelerator: tensors whose memory is the CPU's but whose device is not, so that every
// operation that mixes them with CPU tensors fails as it does on CUDA. Operations run on the CPU.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_copy_from_native.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
constexpr auto KIND = c10::DeviceType::PrivateUse1;

py::object& listener() { static auto* one = new py::object(py::none()); return *one; }
std::atomic<bool> listening{false};

void tell(const char* what, const std::string& op, int64_t bytes) {
  if (!listening) return;
  py::gil_scoped_acquire held;
  listener()(what, op, bytes);
}

struct Memory final : c10::Allocator {
  static void release(void* p) { std::free(p); }
  c10::DataPtr allocate(size_t n) override {
    void* p = n ? std::aligned_alloc(64, (n + 63) / 64 * 64) : nullptr;
    if (p) std::memset(p, 0xFF, n);  // NaN: what is read before it is written shows
    return {p, p, &release, c10::Device(KIND, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

bool ours(const Tensor& t) { return t.defined() && t.device().type() == KIND; }

Tensor on_cpu(const Tensor& t) {  // the same memory, seen as a CPU tensor
  if (!ours(t)) return t;
  Tensor seen = at::from_blob(const_cast<void*>(t.const_data_ptr()), t.sizes(), t.strides(), [t](void*) {},
                              t.options().device(at::kCPU).requires_grad(false));
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) seen.unsafeGetTensorImpl()->set_wrapped_number(true);
  return seen;
}

Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
             std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                     std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}
Tensor on_device(const Tensor& t) {  // a copy
  auto dense = t.is_non_overlapping_and_dense() ? t : t.contiguous();
  Tensor made = empty_strided(dense.sizes(), dense.strides(), dense.scalar_type(), {}, {}, {});
  on_cpu(made).copy_(dense);
  return made;
}
Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::cpu::as_strided_symint(self, size, stride, offset);
}
const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}
Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor view(const Tensor& self, c10::SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }
Tensor& set_tensor(Tensor& self, const Tensor& source) { return at::native::set_tensor_(self, source); }
Tensor& set_storage(Tensor& self, at::Storage source) { return at::native::set_(self, source); }
Tensor& set_part(Tensor& result, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::cpu::set_(result, storage, offset, size, stride);
}
Tensor copy_from(const Tensor& self, const Tensor& to, bool non_blocking) {
  if (ours(self) != ours(to) && !non_blocking)
    tell(ours(self) ? "device to host" : "host to device", "copy_", self.nbytes());
  else if (ours(self) != ours(to))
    tell("asynchronous copy", "copy_", self.nbytes());
  else tell("kernel", "copy_", 0);
  Tensor target = on_cpu(to);
  target.copy_(on_cpu(self));
  return to;
}
Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  at::native::resize_(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}
at::Scalar scalar(const Tensor& self) {
  tell("read", "_local_scalar_dense", 0);
  return at::native::_local_scalar_dense_cpu(on_cpu(self));
}

bool waits(const std::string& name) {
  for (auto* one : {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
                    "aten::equal", "aten::bincount", "aten::repeat_interleave", "torchvision::nms", "aten::histc",
                    "aten::multinomial"})
    if (name == one) return true;
  return false;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string& name = schema.name();
  const size_t count = schema.arguments().size(), begin = stack->size() - count;
  const bool indexes = name.find("index") != std::string::npos && schema.arguments()[0].type()->kind() == c10::TypeKind::TensorType;
  std::vector<Tensor> mine, seen;
  std::vector<size_t> outs;
  bool by_mask = false, first_ours = false;
  std::string other;
  auto take = [&](const Tensor& t, bool is_index, const std::string& argument) -> Tensor {
    if (!t.defined()) return t;
    if (is_index && (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte)) by_mask = true;
    if (!ours(t)) {
      if (t.dim() > 0 && !(is_index && first_ours)) other = argument;
      return t;
    }
    mine.push_back(t);
    seen.push_back(on_cpu(t));
    return seen.back();
  };
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    const auto& argument = schema.arguments()[i].name();
    if (value.isTensor()) {
      if (i == 0) first_ours = ours(value.toTensor());
      const Tensor given = value.toTensor();
      if (ours(given) && schema.arguments()[i].is_out()) {  // may be resized: memory of its own
        outs.push_back(mine.size());
        mine.push_back(given);
        seen.push_back(at::empty_strided(given.sizes(), given.strides(), given.options().device(at::kCPU)));
        value = seen.back();
      } else {
        value = take(given, false, argument);
      }
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(take(t, false, argument));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : value.toOptionalTensorList())
        list.push_back(t.has_value() ? std::optional<Tensor>(take(*t, indexes, argument)) : std::nullopt);
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == KIND) {
      value = c10::Device(at::kCPU);
    } else if (value.isGenerator() && value.toGenerator().device().type() == at::kCPU) {
      other = argument;
    }
  }
  TORCH_CHECK(other.empty(), "Expected all tensors to be on the same device: ", name, " got ", c10::Device(KIND, 0),
              " tensors and '", other, "' on the CPU");
  if (by_mask && (name == "aten::index" || (name == "aten::_index_put_impl_" && (*stack)[begin + 2].toTensor().numel() == 1)))
    by_mask = false;  // counted as nonzero; a fill
  tell(by_mask || waits(name) ? "waits" : "kernel", name + (by_mask ? " by mask" : ""), 0);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  for (size_t i : outs) {
    if (mine[i].sizes() != seen[i].sizes()) at::native::resize_(mine[i], seen[i].sizes(), std::nullopt);
    on_cpu(mine[i]).copy_(seen[i]);
  }
  auto give = [&](const Tensor& t) -> Tensor {
    if (!t.defined()) return t;
    for (size_t i = 0; i < seen.size(); ++i) {
      if (t.unsafeGetTensorImpl() == seen[i].unsafeGetTensorImpl()) return mine[i];
      if (seen[i].storage().nbytes() && t.storage().unsafeGetStorageImpl() == seen[i].storage().unsafeGetStorageImpl()) {
        auto moved = (static_cast<const char*>(t.const_data_ptr()) - static_cast<const char*>(seen[i].const_data_ptr())) / (int64_t)t.itemsize();
        return at::cpu::as_strided_symint(mine[i], c10::fromIntArrayRefSlow(t.sizes()), c10::fromIntArrayRefSlow(t.strides()),
                                          c10::SymInt(mine[i].storage_offset() + moved));
      }
    }
    return on_device(t);
  };
  const size_t results = schema.returns().size();
  for (size_t i = stack->size() - results; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) value = give(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(give(t));
      value = list;
    }
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("resize_", &resize_);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("view", &view);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &scalar);
  for (auto* op : {"convolution", "convolution_backward", "_convolution"})
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&fallback>());
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// Autocast: the lists are those of CUDA.
namespace at::autocast {
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
#define LOW(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FULL(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define OPT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOW)
  AT_FORALL_FP32(FULL)
  AT_FORALL_FP32_SET_OPT_DTYPE(OPT)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(WIDEST)
}
}  // namespace at::autocast

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("listen", [](py::object to) { listener() = to; listening = !to.is_none(); });
}
